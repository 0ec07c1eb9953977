"""Training logs (`log.jsonl` beside checkpoints), as far as figures need them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaltk import files, safe_json

LOG = "log.jsonl"
LARGEST = 1e300  # whole numbers beyond it are no floats; NaN is not below it either


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """Curves over training: epoch [N] (a fraction within epochs) and loss [N]; knn_epoch, knn [M], a fraction.

    `knn` is measured while training, on a slice of the training images: it is no result.
    """

    epoch: np.ndarray
    loss: np.ndarray
    knn_epoch: np.ndarray
    knn: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Prototypes over training, as its monitor counts them: step, unique, largest [N] rising by step.

    num: prototypes in all, 0 if the log does not tell.
    """

    step: np.ndarray
    unique: np.ndarray
    largest: np.ndarray
    num: int


def under(folder: Path) -> dict[str, TrainingLog]:
    """{run folder's name: its log} below `folder`; ambiguous names are left out: results have nothing else."""
    found = {name: read(path) for name, path in _logs(folder)}
    return {name: log for name, log in found.items() if log is not None}


def courses_under(folder: Path) -> dict[str, Course]:
    """{run folder's name: its course} of logs that count prototypes, otherwise as `under`."""
    found = {name: course(path) for name, path in _logs(folder)}
    return {name: one for name, one in found.items() if one is not None}


def course(path: Path) -> Course | None:
    """The course of a log; None where it counts prototypes less than twice. Truncated lines are skipped."""
    keys = ("unique_prototypes", "largest_duplicate_set")
    counted = [line for line in lines(path) if all(is_number(line.get(key)) for key in keys)]
    if len(counted) < 2:
        return None
    step, unique, largest = (np.array([line[key] for line in counted]) for key in ("step", *keys))
    log_k: Any = counted[-1].get("log_k")
    num = round(math.exp(log_k)) if is_number(log_k) and 0 <= log_k < 64 else 0
    return Course(step=step, unique=unique, largest=largest, num=num)


def _logs(folder: Path) -> list[tuple[str, Path]]:
    """(run folder's name, its log) below a folder, without those of ambiguous names."""
    paths: dict[str, list[Path]] = {}
    for path in files.below(folder, LOG):
        paths.setdefault(path.absolute().parent.name, []).append(path)
    return [(name, several[0]) for name, several in paths.items() if len(several) == 1]


def read(path: Path) -> TrainingLog | None:
    """A log; None if it has no loss or only one epoch. Truncated lines are skipped."""
    found = list(lines(path))
    # A step's line has the epoch it belongs to, the last line the epochs done: their ratio is the steps per epoch.
    per_epoch = min((line["step"] / line["epoch"] for line in found if line["epoch"] > 0), default=math.inf)
    if not 0 < per_epoch < math.inf:
        return None

    def curve(name: str) -> tuple[np.ndarray, np.ndarray]:
        points = [(line["step"] / per_epoch, line[name]) for line in found if is_number(line.get(name))]
        return np.array([x for x, _ in points]), np.array([y for _, y in points])

    (epoch, loss), (knn_epoch, knn) = curve("loss"), curve("knn")
    return TrainingLog(epoch=epoch, loss=loss, knn_epoch=knn_epoch, knn=knn) if len(loss) else None


def lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of a log that tell their step and epoch; others are damaged."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            found = safe_json.parse(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and is_number(found.get("step")) and is_number(found.get("epoch")):
            yield found


def is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
