"""Tables of one result's classes: the least accurate, the pairs most often confused, and the calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from evaltk.errors import StorageError
from evaltk.metrics import calibration
from evaltk.types import Result, Score
from reports import comparable, layouts
from reports.figures.style import COLOURS, GREY, panels, shortened, shown, style
from reports.layouts import Items, Layout
from reports.table import Cell, Table

Complain = Callable[[StorageError], object]
AGAIN = "run again with --again; until then it is left out"
NAMES = "class_names"
MOST = 1_000_000  # classes
PANELS = 4  # of a reliability diagram
UNREADABLE = {"finetune": -1}  # what is kept as the prediction of an image that cannot be read; others leave it out


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

    def reliability(self) -> calibration.Reliability:
        """Of the predictions whose confidence is kept: an unreadable image has none."""
        assert self.confidence is not None
        there = np.isfinite(self.confidence)
        return calibration.reliability(self.confidence[there], (self.predicted == self.target)[there])

    def readable(self) -> tuple[np.ndarray, np.ndarray]:
        """(true, predicted) classes of the images that could be read: others are predicted as -1."""
        there = self.predicted >= 0
        return self.target[there], self.predicted[there]

    def name(self, label: int) -> str:
        """What a class is called."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"


def of_result(
    result: Result,
    arrays: Mapping[str, np.ndarray],
    classes: Sequence[str] = (),
    *,
    complain: Complain | None = None,
) -> list[Judged]:
    """The classifiers of a result whose predictions are kept, one for each metric's headline; [] for other protocols.

    Args:
        arrays: the result's predictions. classes: names by id, where the arrays hold none.
        complain: is told of arrays that are no classes or confidences of images, as of a file that was edited; they
            are left out. Without it they are errors.

    Raises: StorageError.
    """
    layout = layouts.protocols().get(result.protocol)
    if layout is None:
        return []
    named = [str(name) for name in np.atleast_1d(arrays[NAMES])] if NAMES in arrays else list(classes)
    found: dict[str, Judged] = {}  # by the array of predictions: several scores may be of one
    faults: dict[str, StorageError] = {}  # by their text: several arrays may have one
    for items in layout.items:
        if not items.predicted:
            continue
        scored = [s for metric in reversed(items.metrics) for s in comparable.scores(result, metric)]
        for score in _shown(layout, items, scored):
            names = _names(score, items)
            if names is not None and all(name in arrays for name in names) and names[0] not in found:
                judged = _judged(result, layout, score, arrays, names, named, faults)
                found |= {names[0]: judged} if judged is not None else {}
    for error in faults.values():
        if complain is None:
            raise error
        complain(error)
    return list({one.title: one for one in reversed(found.values())}.values())[::-1]


def _shown(layout: Layout, items: Items, scored: Sequence[Score]) -> Sequence[Score]:
    """Every set's score, few-shot's first splits, or else the one that was not swept over."""
    if layout.sweep == "on":
        return scored
    if layout.sweep == "shots":
        return [s for s in scored if s.at.get("split") == 1]
    swept = items.metrics[0] if layout.sweep and len(scored) > 1 else ""
    return [s for s in scored if s.metric != swept][:1] or scored[:1]


def _short(layout: Layout, score: Score) -> str:
    """The classifier in a few words."""
    if "classifier" in score.at:
        return str(score.at["classifier"])
    if "k" in score.at:
        return f"{layout.label} k={score.at['k']}"
    if "shots" in score.at:
        shots = score.at["shots"]
        return f"{layout.label}, {shots}" + (" per class" if isinstance(shots, int) else "")
    column = next((e.title for e in layout.extra if e.metric == score.metric and not e.hidden), "")
    return column if layout.protocol == "linear" and column else layout.label


def _names(score: Score, items: Items) -> tuple[str, str] | None:
    """The arrays of predicted and true classes that a score is of; None: it lacks a setting that they are named by."""
    given = {"metric": score.metric, **score.at}
    try:
        return items.predicted.format(**given), items.target.format(**given)
    except KeyError:
        return None


def _judged(
    result: Result,
    layout: Layout,
    score: Score,
    arrays: Mapping[str, np.ndarray],
    names: tuple[str, str],
    classes: Sequence[str],
    faults: dict[str, StorageError],
) -> Judged | None:
    """The classifier, or None and an entry in `faults`."""
    found, true = (np.asarray(arrays[name]) for name in names)
    at = ", ".join(f"{key} {value}" for key, value in score.at.items() if key not in ("chosen_on", "classes"))
    where = f"{result.checkpoint.get('name')}, {result.protocol} on {result.data.name}"
    if fault := _fault(true, found, UNREADABLE.get(result.protocol, 0)):
        error = StorageError(wanted="a class of each image", got=fault, where=where, do=AGAIN)
        faults[str(error)] = error
        return None
    confidence, fault = _confidence(arrays.get(f"{names[0]}_confidence"), found)
    if fault:
        wanted = "a confidence from 0 to 1 of each image"
        error = StorageError(wanted=wanted, got=fault, where=where, do=AGAIN)
        faults[str(error)] = error
    title = f"{result.checkpoint.get('name')}, {result.protocol} on {result.data.name} ({at})"
    return Judged(
        title=title,
        short=_short(layout, score),
        target=true,
        predicted=found,
        confidence=confidence,
        classes=classes,
    )


def _fault(target: np.ndarray, predicted: np.ndarray, least: int) -> str:
    """What is wrong with arrays that a file holds; empty if nothing is. least: the smallest prediction."""
    for name, ids in (("true classes", target), ("predictions", predicted)):
        if ids.ndim != 1 or not len(ids) or len(ids) != len(target) or ids.dtype.kind not in "iu":
            return f"{name} {list(ids.shape)} of type {ids.dtype}"
        if ids.min() < (least if ids is predicted else 0) or ids.max() >= MOST:
            return f"{name} from {ids.min()} to {ids.max()}"
    return ""


def _confidence(kept: np.ndarray | None, predicted: np.ndarray) -> tuple[np.ndarray | None, str]:
    """(confidences with NaN for those that are none, or None if no image has one; what is wrong, empty if nothing is).

    An image that cannot be read, predicted as -1, has none.
    """
    if kept is None:
        return None, ""
    if kept.shape != predicted.shape or kept.dtype.kind != "f":
        return None, f"{list(kept.shape)} of type {kept.dtype}"
    there = (kept >= 0) & (kept <= 1 + 1e-6)
    lacking = int((~there & (predicted >= 0)).sum())
    fault = f"none for {lacking:,} of {len(kept):,} (NaN, or outside of 0 to 1)" if lacking else ""
    return (np.where(there, kept, np.nan) if there.any() else None), fault


def tables(judged: Judged, limit: int) -> list[Table]:
    """The least accurate classes, the most confused pairs, and the calibration where confidences are kept."""
    target, predicted = judged.readable()
    number = 1 + int(max(judged.target.max(), judged.predicted.max()))
    count, accuracy = calibration.by_class(target, predicted, number)
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
        for pair in calibration.worst_pairs(target, predicted, limit)
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
    found = judged.reliability()
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


def diagram(judged: Sequence[Judged], names: Sequence[str] = ()) -> Figure:
    """Reliability diagrams: accuracy over confidence, one panel per classifier whose confidences are kept (up to 4).

    names: of the checkpoints, where they differ; a panel's title begins with it.
    """
    first = names or [""] * len(judged)
    kept = [(one, name) for one, name in zip(judged, first, strict=True) if one.confidence is not None][:PANELS]
    with style():
        figure, axes = panels(len(kept), height=2.2 if len(kept) > 2 else 2.8)
        for (one, name), ax in zip(kept, axes, strict=True):
            found = one.reliability()
            size = len(found.count)
            used = found.count > 0
            middle = (np.arange(size) + 0.5) / size
            ax.bar(middle[used], found.accuracy[used], width=0.9 / size, color=COLOURS[0], label="accuracy")
            ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
            ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy" if ax is axes[0] else "")
            ece = f"ECE {100 * found.ece:.2f} %"
            title = f"{shortened(shown(name), 30)}\n{one.short}: {ece}" if name else f"{one.short}\n{ece}"
            ax.set_title(title, fontsize=8 if len(kept) > 2 else 9)
    return figure
