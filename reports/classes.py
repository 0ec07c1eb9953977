"""Tables of one result's classes: the least accurate, the pairs most often confused, and the calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from evaltk.errors import StorageError
from evaltk.metrics import calibration
from evaltk.types import Result, Score
from reports import comparable, layouts
from reports.figures.style import COLOURS, GREY, panels, style
from reports.table import Cell, Table

NAMES = "class_names"
MOST = 1_000_000  # classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Predictions of one classifier.

    Attributes:
        title: checkpoint, protocol, dataset and setting. short: the classifier, for small spaces.
        target, predicted: classes [N]. confidence: of the predictions [N], or None.
        classes: names by id; a class beyond them is called by its number.
    """

    title: str
    short: str
    target: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray | None
    classes: Sequence[str]

    def name(self, label: int) -> str:
        """What a class is called."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"


def of_result(result: Result, arrays: Mapping[str, np.ndarray], classes: Sequence[str] = ()) -> list[Judged]:
    """The classifiers of a result whose predictions are kept, one for each metric's headline; [] for other protocols.

    Args:
        arrays: the result's predictions. classes: names by id, where the arrays hold none.

    Raises: StorageError: arrays that are no classes of images, as of a file that was edited.
    """
    layout = layouts.protocols().get(result.protocol)
    named = [str(name) for name in np.atleast_1d(arrays[NAMES])] if NAMES in arrays else list(classes)
    found: dict[str, Judged] = {}
    for items in layout.items if layout else ():
        if not items.predicted:
            continue
        scored = [s for metric in reversed(items.metrics) for s in comparable.scores(result, metric)]
        swept = items.metrics[0] if layout and layout.sweep and len(scored) > 1 else ""
        chosen = [s for s in scored if s.metric != swept][:1] or scored[:1]
        for score in scored if layout and layout.sweep == "on" else chosen:
            judged = _judged(result, score, arrays, items.predicted, items.target, named)
            if judged is not None:
                found.setdefault(judged.title, judged)
    return list(found.values())


def _judged(
    result: Result,
    score: Score,
    arrays: Mapping[str, np.ndarray],
    predicted: str,
    target: str,
    classes: Sequence[str],
) -> Judged | None:
    given = {"metric": score.metric, **score.at}
    try:
        names = [template.format(**given) for template in (predicted, target)]
    except KeyError:
        return None
    if any(name not in arrays for name in names):
        return None
    found, true = (np.asarray(arrays[name]) for name in names)
    confidence = arrays.get(f"{names[0]}_confidence")
    at = ", ".join(f"{key} {value}" for key, value in score.at.items() if key not in ("chosen_on", "classes"))
    if fault := _fault(true, found, confidence):
        where = f"{result.checkpoint.get('name')}, {result.protocol} on {result.data.name}"
        raise StorageError(wanted="a class of each image", got=fault, where=where, do="run again with --again")
    title = f"{result.checkpoint.get('name')}, {result.protocol} on {result.data.name} ({at})"
    short = str(score.at.get("classifier", result.protocol))
    return Judged(title=title, short=short, target=true, predicted=found, confidence=confidence, classes=classes)


def _fault(target: np.ndarray, predicted: np.ndarray, confidence: np.ndarray | None) -> str:
    """What is wrong with arrays that a file holds; empty if nothing is."""
    for name, ids in (("true classes", target), ("predictions", predicted)):
        if ids.ndim != 1 or not len(ids) or len(ids) != len(target) or ids.dtype.kind not in "iu":
            return f"{name} {list(ids.shape)} of type {ids.dtype}"
        if ids.min() < 0 or ids.max() >= MOST:
            return f"{name} from {ids.min()} to {ids.max()}"
    if confidence is not None:
        if confidence.shape != target.shape or confidence.dtype.kind != "f":
            return f"confidences {list(confidence.shape)} of type {confidence.dtype}"
        if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
            return "confidences outside of 0 to 1"
    return ""


def tables(judged: Judged, limit: int) -> list[Table]:
    """The least accurate classes, the most confused pairs, and the calibration where confidences are kept."""
    number = 1 + int(max(judged.target.max(), judged.predicted.max()))
    count, accuracy = calibration.by_class(judged.target, judged.predicted, number)
    order = [c for c in np.lexsort((np.arange(number), accuracy)).tolist() if count[c]][:limit]
    worst = tuple(
        (judged.name(c), (Cell(value=float(accuracy[c])), Cell(value=float(count[c]), unit="count", digits=0)))
        for c in order
    )
    pairs = tuple(
        (
            f"{judged.name(pair.label)} as {judged.name(pair.predicted)}",
            (Cell(value=float(pair.count), unit="count", digits=0), Cell(value=pair.share)),
        )
        for pair in calibration.worst_pairs(judged.target, judged.predicted, limit)
    )
    end = f": {judged.title}"
    made = [Table(title=f"Least accurate classes{end}", columns=("accuracy (%)", "images"), rows=worst, stub="class")]
    if pairs:
        columns = ("images", "of the class (%)")
        made.append(Table(title=f"Most confused pairs{end}", columns=columns, rows=pairs, stub="true as predicted"))
    if judged.confidence is not None:
        made.append(_calibration(judged, end))
    return made


def _calibration(judged: Judged, end: str) -> Table:
    assert judged.confidence is not None
    found = calibration.reliability(judged.confidence, judged.predicted == judged.target)
    size = len(found.count)
    rows = tuple(
        (
            f"{b / size:.2f} to {(b + 1) / size:.2f}",
            (
                Cell(value=float(found.confidence[b])),
                Cell(value=float(found.accuracy[b])),
                Cell(value=float(found.count[b]), unit="count", digits=0),
            ),
        )
        for b in range(size)
        if found.count[b]
    )
    title = f"Calibration, expected error {100 * found.ece:.2f} %{end}"
    return Table(title=title, columns=("confidence (%)", "accuracy (%)", "images"), rows=rows, stub="confidence")


def diagram(judged: Sequence[Judged]) -> Figure:
    """Reliability diagrams: accuracy over confidence, one panel per classifier whose confidences are kept (up to 4)."""
    shown = [one for one in judged if one.confidence is not None][:4]
    with style():
        figure, axes = panels(len(shown), height=2.8)
        for one, ax in zip(shown, axes, strict=True):
            assert one.confidence is not None
            found = calibration.reliability(one.confidence, one.predicted == one.target)
            size = len(found.count)
            used = found.count > 0
            middle = (np.arange(size) + 0.5) / size
            ax.bar(middle[used], found.accuracy[used], width=0.9 / size, color=COLOURS[0], label="accuracy")
            ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
            ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
            ax.set_title(f"{one.short}: ECE {100 * found.ece:.2f} %")
    return figure
