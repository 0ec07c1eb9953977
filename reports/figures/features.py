"""Figures of what features are like: CKA of blocks, reliability of classifiers, IoU by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaltk.types import Result
from reports import classes, layouts
from reports.figures.style import COLOURS, Drawn, panels, shown, style

PROTOCOLS = ("geometry", "shift", "segmentation")
CALIBRATED = ("knn", "linear", "fewshot", "transfer", "finetune")  # their checkpoints are compared in one figure
MOST = 30  # classes of a figure of IoU


def of_result(
    protocol: str,
    label: str,
    result: Result,
    arrays: Mapping[str, np.ndarray],
    end: str,
    complain: classes.Complain | None = None,
) -> Iterator[Drawn]:
    """The figures of one result of one of `PROTOCOLS`; none where its arrays lack.

    Args: label: of the checkpoint. end: of the figures' names. complain: as for `classes.of_result`.
    """
    if protocol == "geometry" and "cka_blocks" in arrays:
        title = f"CKA of the blocks of {label}"
        yield Drawn(name=f"cka-{end}", title=title, figure=blocks(np.asarray(arrays["cka_blocks"]), label))
    if protocol == "shift":
        found = classes.of_result(result, arrays, complain=complain)
        own = [one for one in found if one.confidence is not None and "set test" in one.title]
        if own:
            title = f"reliability of the classifiers of {label} on the test split"
            yield Drawn(name=f"reliability-{end}", title=title, figure=classes.diagram(own))
    if protocol == "segmentation":
        for method in ("linear", "knn"):
            iou = {str(s.at["class_name"]): s.value for s in result.scores
                   if s.metric == "iou" and s.at.get("method") == method}  # fmt: skip
            if iou:
                title = f"IoU by class of {label}, {method}"
                yield Drawn(name=f"iou-{method}-{end}", title=title, figure=by_class(iou, f"{label}, {method}"))


def calibrated(result: Result) -> bool:
    """Whether the result is of one of `CALIBRATED` and has a calibration error; older results have none."""
    return result.protocol in CALIBRATED and any("ece" in s.metric.split("_") for s in result.scores)


def calibration(
    members: Mapping[str, tuple[Result, Mapping[str, np.ndarray]]], end: str, complain: classes.Complain | None = None
) -> Iterator[Drawn]:
    """Reliability diagrams of the headline classifier of checkpoints [{label: (result, arrays)}], four in a figure.

    Few-shot has one figure per checkpoint: a panel for each number of images per class.
    """
    judged = {label: [one for one in classes.of_result(*found, complain=complain) if one.confidence is not None]
              for label, found in members.items()}  # fmt: skip
    judged = {label: found for label, found in judged.items() if found}
    first = next(result for result, _ in members.values())
    if first.protocol == "fewshot":
        figures = [(found, list[str](), f"few-shot classifiers of {label}") for label, found in judged.items()]
    else:
        labels = list(judged)
        parts = [labels[start : start + classes.PANELS] for start in range(0, len(labels), classes.PANELS)]
        what = layouts.protocols()[first.protocol].label
        figures = [([judged[label][0] for label in part], part, what) for part in parts]
    for number, (shown_here, names, what) in enumerate(figures, 1):
        name = f"reliability-{first.protocol}-{end}" + (f"-{number}" if len(figures) > 1 else "")
        title = f"reliability of {what} on {first.data.name}"
        yield Drawn(name=name, title=title, figure=classes.diagram(shown_here, names))


def blocks(cka: np.ndarray, label: str) -> Figure:
    """CKA [L, L] of the class tokens of all pairs of blocks."""
    with style():
        figure, (axes,) = panels(1, height=3.2)
        size = len(cka)
        image = axes.imshow(cka, cmap="viridis", vmin=0, vmax=1, extent=(0.5, size + 0.5, size + 0.5, 0.5))
        axes.set(xlabel="block", ylabel="block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(False)
        axes.set_title(shown(label))
        figure.colorbar(image, ax=axes, shrink=0.85).set_label("linear CKA")
    return figure


def by_class(iou: Mapping[str, float], label: str) -> Figure:
    """IoU of each class as bars, the best first; of many classes the best and the worst."""
    order = sorted(iou, key=lambda name: (-iou[name], name))
    if len(order) > MOST:
        order = [*order[: MOST // 2], *order[-MOST // 2 :]]
    with style():
        figure, (axes,) = panels(1, height=0.8 + 0.18 * len(order))
        values = [100 * iou[name] for name in order]
        axes.barh(np.arange(len(order)), values, color=COLOURS[0])
        for row, value in enumerate(values):
            axes.text(value + 1, row, f"{value:.1f}", va="center", fontsize=7)
        axes.set_yticks(np.arange(len(order)), [shown(name) for name in order])
        axes.invert_yaxis()
        axes.set(xlim=(0, 110), xlabel="IoU (%)")
        axes.set_title(shown(label))
        axes.grid(axis="y", visible=False)
    return figure
