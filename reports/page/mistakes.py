"""The images that classifiers get wrong with the highest confidence: few, small, and inside the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from evaltk.types import Result
from reports import classes, comparable, layouts
from reports.tables.beside_published import checkpoint_names

CLASSIFIERS = 12  # on the page
IMAGES = 8  # of each, unless the user asks for another number
PAGE_BYTES = 1_000_000  # of all pictures


class Images(Protocol):
    """The images of a result's predictions, in their order. missing: why there are no pictures; "" where there are."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def missing(self) -> str: ...
    def name(self, row: int) -> str: ...
    def thumbnail(self, row: int) -> bytes | None: ...


Find = Callable[[Result, np.ndarray], Images]  # (result, classes [N] of its images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image. uri: its picture, or "". words: all of it, for those who cannot see the picture."""

    name: str
    true: str
    predicted: str
    confidence: str
    uri: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A classifier's mistakes. model, task: as the filters know them. wrong: in words. missing: why no pictures."""

    title: str
    model: str
    task: str
    wrong: str
    missing: str
    mistakes: tuple[Mistake, ...]


def rows(target: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, count: int) -> list[int]:
    """The mistakes with the highest confidence, the highest first, ties by row: at most `count` rows of [N]."""
    wrong = np.flatnonzero((target != predicted) & np.isfinite(confidence))
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:count].tolist()


def strips(
    found: Sequence[tuple[Path, Result]],
    read: Callable[[Path], Mapping[str, np.ndarray]],
    find: Find,
    count: int = IMAGES,
    complain: classes.Complain = lambda _: None,
) -> tuple[list[Strip], int]:
    """(the mistakes of the first classifiers that keep their confidences, how many classifiers are left out).

    Pictures beyond `PAGE_BYTES` are left out, the names stay. complain: as for `classes.of_result`.
    """
    names = checkpoint_names([result for _, result in found])
    made: list[Strip] = []
    left, spare = 0, PAGE_BYTES
    for path, result in found if count else ():
        known = classes.of_result(result, read(path), complain=complain)
        judged = next((one for one in known if one.confidence is not None), None)
        if judged is None or judged.confidence is None or not (judged.target != judged.predicted).any():
            continue
        if len(made) == CLASSIFIERS:
            left += 1
            continue
        images = find(result, judged.target)
        called = judged.classes or images.classes
        mistakes = []
        for row in rows(judged.target, judged.predicted, judged.confidence, count):
            picture = images.thumbnail(row) if spare > 0 else None
            mistake = _mistake(judged, row, called, images.name(row), picture)
            spare -= len(mistake.uri)
            mistakes.append(mistake)
        layout = layouts.protocols().get(result.protocol)
        task = layout.label if layout else result.protocol
        wrong, model = int((judged.target != judged.predicted).sum()), names[comparable.identity(result)]
        made.append(
            Strip(
                title=f"{model}, {task} on {result.data.name}",
                model=model,
                task=task,
                wrong=f"{wrong:,} of {len(judged.target):,} images are wrong",
                missing=images.missing or ("" if spare > 0 else "the page has room for no more pictures"),
                mistakes=tuple(mistakes),
            )
        )
    return made, left


def _mistake(judged: classes.Judged, row: int, called: Sequence[str], name: str, picture: bytes | None) -> Mistake:
    assert judged.confidence is not None
    true, predicted = (
        called[label] if label < len(called) else f"class {label}"
        for label in (int(judged.target[row]), int(judged.predicted[row]))
    )
    share = f"{100 * float(judged.confidence[row]):.1f} %"
    return Mistake(
        name=name,
        true=true,
        predicted=predicted,
        confidence=share,
        uri="data:image/jpeg;base64," + base64.b64encode(picture).decode() if picture else "",
        words=f"{name}: {true}, predicted as {predicted} with a confidence of {share}",
    )
