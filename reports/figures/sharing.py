"""Figures of what images share of prototypes: similarity map, use by class, and the course over a run's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from evaltk.types import Result
from reports.figures import trajectories
from reports.figures.style import Drawn, legend_below, line, panels, shown, style
from reports.layouts import Extra
from reports.table import in_unit

# Title of the panel, score, unit.
COURSE = (
    ("unique prototypes", "unique_share", "%"),
    ("largest set", "largest_share", "%"),
    ("cosine of the set with the data mean", "void_cosine", "count"),
    ("assigned an image", "used_share", "%"),
)


def similarity(blocks: np.ndarray, rows: np.ndarray, *, title: str = "") -> Figure:
    """Mean cosines [M, M] between blocks of prototypes, ordered by the size of their set; rows [M] in each block."""
    with style():
        figure, (axes,) = panels(1, height=3.4)
        total = int(rows.sum())
        image = axes.imshow(
            blocks, cmap="RdBu_r", vmin=-1, vmax=1, extent=(0, total, total, 0), interpolation="nearest"
        )
        axes.set(xlabel="prototype, largest set first", ylabel="prototype, largest set first")
        axes.grid(False)
        axes.set_title(title)
        bar = figure.colorbar(image, ax=axes, shrink=0.85)
        bar.set_label("mean cosine")
    return figure


def class_use(effective: Mapping[str, np.ndarray]) -> Figure:
    """Effective number of prototypes by class [C] of each checkpoint."""
    with style():
        figure, (axes,) = panels(1, height=2.8)
        for n, (label, values) in enumerate(effective.items()):
            axes.plot(np.arange(len(values)), values, label=label, **line(n, label))  # type: ignore[arg-type]
        axes.set(xlabel="class", ylabel="effective number of prototypes")
        axes.set_ylim(bottom=0)
        axes.set_title("prototypes used by the images of a class" if len(effective) > 1 else next(iter(effective)))
        legend_below(figure, axes, columns=1)
    return figure


def over_checkpoints(group: Sequence[Result], end: str) -> list[Drawn]:
    """Duplicates, the largest set, its cosine and use over the checkpoints of runs; none without such runs."""
    found = [(title, unit, trajectories.of_runs(group, Extra(title=title, metric=m))) for title, m, unit in COURSE]
    if not any(runs for _, _, runs in found):
        return []
    with style():
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        for n, (title, unit, runs) in enumerate(found):
            axes = figure.add_subplot(2, 2, n + 1)
            for m, run in enumerate(runs[: trajectories.MOST]):
                look = line(m, run.name) | ({"linestyle": "none"} if run.several else {})
                axes.plot(run.epoch, in_unit(run.value, unit), label=shown(run.name), **look)  # type: ignore[arg-type]
            axes.set(xlabel="epoch", ylabel="prototypes (%)" if unit == "%" else "cosine")
            axes.set_title(title)
        legend_below(figure, figure.axes[0], columns=2)
    return [Drawn(name=f"checkpoints-{end}", title="prototypes over the checkpoints of a run", figure=figure)]
