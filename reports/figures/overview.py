"""All models at all tasks in one chart: a row per task, a point with its interval per model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reports.figures.style import COLOURS, GREY, Drawn, legend_below, line, panels, shortened, shown, style
from reports.table import percent
from reports.tables.winners import Contest

MOST = 14  # tasks
TOLD = len(COLOURS)  # models with a colour; the others are grey


def of_contests(found: Sequence[Contest], *, narrow: bool = False) -> list[Drawn]:
    """The chart of the tasks that are measured in percent; none for a single model. `narrow`: for a phone."""
    met = [one for one in found if one.unit == "%" and len(one.places) > 1]
    if not met:
        return []
    kept = met[:MOST]
    title = "models at each task, with 95 % intervals"
    return [Drawn(name="overview", title=title if len(kept) == len(met) else f"the first {MOST} tasks: {title}",
                  figure=draw(kept, narrow=narrow))]  # fmt: skip


def draw(found: Sequence[Contest], *, narrow: bool = False) -> Figure:
    """Tasks from the top down; a task's best has its value beside it."""
    wins: dict[str, list[int]] = {}
    for one in found:
        for place, (name, _, _) in enumerate(one.places):
            wins.setdefault(name, []).append(place)
    models = sorted(wins, key=lambda name: (float(np.mean(wins[name])), name))
    told = models[:TOLD]
    with style():
        figure, (axes,) = panels(
            1, width=4.4 if narrow else 9.0, height=1.2 + (0.22 + 0.06 * min(len(told), 5)) * len(found)
        )
        for n, name in enumerate(models):
            named = name in told
            look = line(n, name) if named else {"color": GREY, "marker": "."}
            rows, values, error = _points(
                found, name, (n - (len(told) - 1) / 2) * 0.5 / max(4, len(told)) if named else 0
            )
            label = shown(shortened(name, 40)) if named else "others" if n == len(told) else "_"
            axes.errorbar(values, rows, xerr=error if named else None, label=label, capsize=1.5, elinewidth=0.8,
                          **{**look, "linestyle": "none"})  # type: ignore[arg-type]  # fmt: skip
        for row, one in enumerate(found):
            name, value, _ = one.places[0]
            axes.annotate(
                f"{percent(value):.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8
            )
        axes.set_yticks(range(len(found)), [shown(one.title) for one in found])
        axes.set(xlabel="%; at the right: the best", ylim=(len(found) - 0.5, -0.5))
        low, high = axes.get_xlim()
        axes.set_xlim(max(0.0, low), min(100.0, high) if high > 100 else high)
        axes.grid(axis="y", visible=False)
        legend_below(figure, axes, columns=4)
    return figure


def _points(found: Sequence[Contest], name: str, shift: float) -> tuple[list[float], np.ndarray, np.ndarray]:
    """(rows, values in percent, distances to the ends of the intervals [2, N])."""
    rows, values, ends = [], [], []
    for row, one in enumerate(found):
        for model, value, interval in one.places:
            if model == name:
                rows.append(row + shift)
                values.append(value)
                ends.append(interval or (value, value))
    at: np.ndarray = percent(np.array(values))
    end: np.ndarray = percent(np.array(ends).reshape(-1, 2))
    return rows, at, np.abs(np.stack([at - end[:, 0], end[:, 1] - at]))
