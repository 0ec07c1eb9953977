"""Trajectories: a protocol's headline over the epochs of a pretraining run, one point per checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaltk.types import Result
from reports import comparable
from reports.figures.style import GREY, legend_below, line, panels, shown, style
from reports.figures.training_log import TrainingLog
from reports.layouts import Extra
from reports.table import in_unit, percent

MOST = 7  # runs that are drawn; more could not be told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run's checkpoints by epoch: epoch [N] rising, value, low, high [N]; fractions where the metric is one.

    `several`: two checkpoints of one epoch hold other weights, so that these are not one run's.
    """

    name: str
    epoch: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    several: bool = False


def of_runs(group: Sequence[Result], extra: Extra) -> list[Run]:
    """Runs of which checkpoints of at least two epochs were measured.

    A run is what folder, family, branch and architecture tell; the same weights measured twice are one point.
    """
    runs: dict[tuple[str, ...], dict[tuple[int, str], tuple[float, float, float]]] = {}
    for result in group:
        checkpoint = result.checkpoint
        told, epoch = comparable.OF_RUN.fullmatch(str(checkpoint.get("name"))), checkpoint.get("epoch")
        scores = comparable.scores(result, extra.metric, extra.at)
        if told and isinstance(epoch, int) and scores:
            arch = comparable.as_mapping(checkpoint.get("arch")).get("name")
            key = (told["run"], *(str(part) for part in (checkpoint.get("family"), checkpoint.get("branch"), arch)))
            value = scores[0].value
            low, high = scores[0].interval or (value, value)
            points = runs.setdefault(key, {})
            points.setdefault((epoch, str(checkpoint.get("digest"))), (value, low, high))
    names = [key[0] for key in runs]
    made = []
    for key, points in runs.items():
        epochs = [epoch for epoch, _ in sorted(points)]
        if len(set(epochs)) > 1:
            value, low, high = np.array([points[at] for at in sorted(points)]).T
            name = key[0] if names.count(key[0]) == 1 else " ".join(key)
            several = len(set(epochs)) < len(epochs)
            made.append(Run(name=name, epoch=np.array(epochs), value=value, low=low, high=high, several=several))
    return made


def draw(runs: Sequence[Run], label: str, unit: str, logs: Mapping[str, TrainingLog], *, watched: bool) -> Figure:
    """The metric against the epoch, and the training loss beside it where there are logs.

    Args:
        label: what the metric is called. logs: by run. watched: the logs' k-NN on training images goes with the metric.
    """
    kept = runs[:MOST]
    with style():
        figure, axes = panels(2 if logs else 1, height=2.9)
        for n, run in enumerate(kept):
            log = logs.get(run.name)
            if watched and log is not None and len(log.knn) > 1:
                told = "during training, on training images"
                axes[0].plot(log.knn_epoch, percent(log.knn), color=GREY, linewidth=0.8, label=told if n == 0 else "_")
            _points(axes[0], run, n, unit)
            if log is not None:
                look = line(n, run.name) | {"marker": ""}
                axes[1].plot(log.epoch, log.loss, label=shown(run.name), **look)  # type: ignore[arg-type]
        axes[0].set(xlabel="epoch", ylabel=label)
        if len(runs) > len(kept):
            axes[0].set_title(f"the first {len(kept)} of {len(runs)} runs")
        if logs:
            axes[1].set(xlabel="epoch", ylabel="training loss")
        handles, _ = axes[0].get_legend_handles_labels()
        if len(handles) > 1:
            legend_below(figure, axes[0], columns=2)
        elif len(runs) == 1:
            axes[0].set_title(shown(runs[0].name))
    return figure


def _points(axes: Axes, run: Run, n: int, unit: str) -> None:
    look = line(n, run.name) | ({"linestyle": "none"} if run.several else {})
    label = shown(run.name) + (" (several runs of this name)" if run.several else "")
    error = in_unit(np.stack([run.value - run.low, run.high - run.value]), unit)
    known = error if (error > 0).any() else None
    axes.errorbar(run.epoch, in_unit(run.value, unit), yerr=known, label=label, capsize=2, elinewidth=0.7, **look)  # type: ignore[arg-type]
