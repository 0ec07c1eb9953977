"""Figures of training runs: loss and entropy, prototypes, kappa, k-NN, rank of features and speed over the epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaltk.results import slug
from reports.figures.style import COLOURS, GREY, WIDTH, Drawn, legend_below, line, shown, style
from reports.table import percent
from reports.training.logs import RunLog

MOST = len(COLOURS)  # runs in one figure
MARKED = 40  # points below which each is marked
EVENTS = {
    "skipped": (COLOURS[5], ":"),
    "rolled back": (COLOURS[1], "--"),
    "diverged": (COLOURS[1], "-"),
    "collapsed": (COLOURS[1], "-"),
}


def of_logs(runs: Mapping[str, RunLog]) -> Iterator[Drawn]:
    """A figure of each run, and one that compares them where there are several."""
    if len(runs) > 1:
        title = "training runs" if len(runs) <= MOST else f"the first {MOST} of {len(runs)} training runs"
        kept = dict(list(runs.items())[:MOST])
        yield Drawn(name="training-compared", title=title, figure=compared(kept, title))
    for name, run in runs.items():
        yield Drawn(name=f"training-{slug(name)}", title=f"training of {name}", figure=of_run(name, run))


def of_run(name: str, run: RunLog) -> Figure:
    """Six panels of one run."""
    with style():
        figure, axes = _grid()
        figure.suptitle(shown(name), fontsize=9)
        _curves(axes[0], run, {"loss": "loss", "teacher_entropy": "teacher entropy"}, "nats")
        if run.prototypes and len(run.curve("teacher_entropy")[0]):
            axes[0].axhline(math.log(run.prototypes), color=GREY, linewidth=0.7, linestyle=":", label="ln K")
        _prototypes(axes[1], run)
        _curves(axes[2], run, {f"kappa_{k}": k for k in ("max", "median", "min")}, "κ of the prototypes")
        _curves(axes[3], run, {"knn": "k-NN"}, "k-NN on training images (%)", scale=percent)
        _curves(axes[4], run, {"feature_rank": "rank"}, "effective rank of features")
        _curves(axes[5], run, {"images_per_second": "images/s"}, "images per second")
        for panel in axes:
            _finish(panel, run)
            _incidents(panel, run)
            if len(panel.get_legend_handles_labels()[1]) > 1:
                panel.legend(loc="best", fontsize=6.5)
    return figure


def compared(runs: Mapping[str, RunLog], title: str = "") -> Figure:
    """Six panels, each with a line for every run."""
    with style():
        figure, axes = _grid()
        figure.suptitle(title, fontsize=9)
        keys: tuple[tuple[str, str, Callable[[np.ndarray], np.ndarray] | None], ...] = (
            ("loss", "loss (nats)", None),
            ("teacher_entropy", "teacher entropy (nats)", None),
            ("won_share", "prototypes used (%)", percent),
            ("kappa_median", "median κ", None),
            ("knn", "k-NN on training images (%)", percent),
            ("feature_rank", "effective rank of features", None),
        )
        for panel, (key, label, scale) in zip(axes, keys, strict=True):
            for n, (name, run) in enumerate(runs.items()):
                x, y = run.curve(key)
                look = line(n, name) | ({} if len(x) < MARKED else {"marker": ""})
                panel.plot(x, scale(y) if scale else y, label=shown(name), linewidth=1.0, **look)  # type: ignore[arg-type]
            panel.set_ylabel(label)
            panel.set_xlabel("epoch" if all(run.in_epochs for run in runs.values()) else "step")
            if not any(len(run.curve(key)[0]) for run in runs.values()):
                _nothing(panel)
        legend_below(figure, axes[0], columns=3)
    return figure


def _grid() -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH * 1.35, 4.6), layout="constrained")
    return figure, [figure.add_subplot(2, 3, n + 1) for n in range(6)]


def _curves(
    panel: Axes,
    run: RunLog,
    keys: Mapping[str, str],
    label: str,
    *,
    scale: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    for n, (key, name) in enumerate(keys.items()):
        x, y = run.curve(key)
        if len(x):
            look = line(n) | ({} if len(x) < MARKED else {"marker": ""})
            panel.plot(x, scale(y) if scale else y, label=name, linewidth=1.0, **look)  # type: ignore[arg-type]
    panel.set_ylabel(label)


def _prototypes(panel: Axes, run: RunLog) -> None:
    points = [(entry["step"], value) for entry in run.lines if (value := run.used(entry)) is not None]
    if points:
        x, y = np.array(points, dtype=float).T
        panel.plot(run.places(x), y, label="used", color=COLOURS[0], linewidth=1.0)
    for n, (key, name) in enumerate((("unique_prototypes", "unique"), ("largest_duplicate_set", "largest set")), 1):
        x, y = run.curve(key)
        if len(x):
            look = line(n) | ({} if len(x) < MARKED else {"marker": ""})
            panel.plot(x, y, label=name, linewidth=1.0, **look)  # type: ignore[arg-type]
    if run.prototypes and panel.lines:
        panel.axhline(run.prototypes, color=GREY, linewidth=0.7, linestyle=":", label="K")
    panel.set_ylabel("prototypes")


def _finish(panel: Axes, run: RunLog) -> None:
    panel.set_xlabel("epoch" if run.in_epochs else "step")
    if not any(len(np.asarray(one.get_xdata())) > 0 for one in panel.lines):
        _nothing(panel)


def _nothing(panel: Axes) -> None:
    panel.text(
        0.5, 0.5, "not in the log", transform=panel.transAxes, ha="center", va="center", color=GREY, fontsize=7.5
    )
    panel.set(xticks=[], yticks=[])


def _incidents(panel: Axes, run: RunLog) -> None:
    for event, (colour, dash) in EVENTS.items():
        steps: Sequence[int] = [entry["step"] for entry in run.incidents if entry.get("event") == event]
        for n, place in enumerate(run.places(np.array(steps, dtype=float)) if len(steps) else ()):
            told = event if n == 0 else f"_{event}"
            panel.axvline(float(place), color=colour, linewidth=0.8, linestyle=dash, label=told, zorder=0)
