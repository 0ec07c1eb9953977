"""Alternative texts of figures: axes, series and their end points."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

MOST = 12  # series that are described one by one


def describe_figure(figure: Figure) -> str:
    """One sentence or more a panel; panels that show images have none."""
    return " ".join(sentence for axes in figure.axes for sentence in _panel(axes))


def _panel(axes: Axes) -> Iterator[str]:
    x, y, title = (_plain(text) for text in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()))
    if not (x or y):
        return
    yield f"{f'{title}: ' if title else ''}{y or x}{f' against {x}' if x and y else ''}."
    told = [*_rows(axes), *_lines(axes)]
    if told:
        more = f"; and {len(told) - MOST} more" if len(told) > MOST else ""
        yield "; ".join(told[:MOST]) + f"{more}."


def _rows(axes: Axes) -> Iterator[str]:
    """Rows of points, each with its number written at its right."""
    names = {round(at): label.get_text() for at, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    for text in axes.texts:
        row = text.xy[1] if isinstance(text, Annotation) else None
        if isinstance(row, int | float) and names.get(round(row)):
            yield f"{_plain(names[round(row)])} {text.get_text()}"


def _lines(axes: Axes) -> Iterator[str]:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        line = handle[0] if isinstance(handle, tuple) else handle
        if not hasattr(line, "get_ydata"):
            yield _plain(label)
            continue
        values = np.asarray(line.get_ydata(), dtype=float)
        values = values[np.isfinite(values)]
        if len(values):
            ends = f"{values[0]:.4g} to {values[-1]:.4g}" if len(values) > 1 else f"{values[0]:.4g}"
            between = f", between {values.min():.4g} and {values.max():.4g}" if len(values) > 2 else ""
            yield f"{_plain(label)} from {ends}{between}" if len(values) > 1 else f"{_plain(label)} {ends}"


def _plain(text: str) -> str:
    """A label without what stands in it for matplotlib alone."""
    return " ".join(text.replace(r"\$", "$").replace("\u200b", "").split())
