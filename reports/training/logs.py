"""A training run as its `log.jsonl` tells it: curves, latest values, incidents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaltk import files
from evaltk.errors import StorageError
from reports.figures.training_log import LOG, is_number, lines

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunLog:
    """One run.

    Attributes:
        name: of its folder. folder: where it is. lines: those with numbers, in order. incidents: those about a step
            that was skipped, rolled back, or ended the run.
    """

    name: str
    folder: Path
    lines: tuple[Line, ...]
    incidents: tuple[Line, ...]

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(epochs [N], a fraction within epochs, values [N]) of the lines that have the value.

        Steps stand for epochs where the log does not tell how many an epoch has.
        """
        points = [(line["step"], float(line[key])) for line in self.lines if is_number(line.get(key))]
        x, y = np.array([x for x, _ in points], dtype=float), np.array([y for _, y in points], dtype=float)
        return self.places(x), y

    def places(self, steps: np.ndarray) -> np.ndarray:
        """Where steps [N] stand on the axis of `curve`."""
        return steps / self.per_epoch if self.in_epochs else steps

    @property
    def in_epochs(self) -> bool:
        """Whether the log tells how many steps an epoch has."""
        return math.isfinite(self.per_epoch)

    @property
    def per_epoch(self) -> float:
        """Steps per epoch; infinite where the log does not tell."""
        steps, epochs = self.latest("steps"), self.latest("epochs")
        if steps and epochs:
            return steps / epochs
        # A step's line has the epoch it belongs to, the last line the epochs done: their ratio is the steps per epoch.
        return min((line["step"] / line["epoch"] for line in self.lines if line["epoch"] > 0), default=math.inf)

    def latest(self, key: str) -> float | None:
        """The last number of that name."""
        return next((float(line[key]) for line in reversed(self.lines) if is_number(line.get(key))), None)

    @property
    def prototypes(self) -> int | None:
        """How many prototypes there are."""
        log_k = self.latest("log_k")
        return None if log_k is None or not 0 < log_k < 50 else round(math.exp(log_k))

    def used(self, line: Line) -> float | None:
        """How many prototypes took an image, in the steps of a line."""
        if is_number(line.get("prototypes_used")):
            return float(line["prototypes_used"])
        share, count = line.get("won_share"), self.prototypes
        return float(share) * count if is_number(share) and share is not None and count else None

    @property
    def step(self) -> int:
        """Of the last line."""
        return int(max((line["step"] for line in (*self.lines, *self.incidents)), default=0))

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: its last line has no loss."""
        return bool(self.lines) and "loss" not in self.lines[-1] and self.step == self.lines[-1]["step"]

    @property
    def ended_by(self) -> Line | None:
        """The incident that ended it, if one did."""
        last = self.incidents[-1] if self.incidents else None
        ends = last is not None and last.get("event") in ("diverged", "collapsed")
        return last if ends and last is not None and last["step"] >= self.step else None

    def alarms(self) -> list[str]:
        """Signs of collapse, each kind once, when it was first told; and incidents; in order, in words."""
        told: dict[str, tuple[int, str]] = {}
        for line in self.lines:
            for alarm in _texts(line.get("alarms")):
                told.setdefault(alarm.partition(" (")[0].rstrip("0123456789., "), (int(line["step"]), alarm))
        found = [(step, f"step {step:,}: {text}") for step, text in told.values()]
        found += [(int(line["step"]), in_words(line)) for line in self.incidents]
        return [text for _, text in sorted(found)]


def in_words(incident: Line) -> str:
    """An incident in a line: ``step 120: skipped, NaN in the loss; images a.jpg, b.jpg and 62 more``."""
    images = _texts(incident.get("images"))
    named = f"; images {', '.join(images[:2])}" if images else ""
    more = f" and {len(images) - 2} more" if len(images) > 2 else ""
    event, at = str(incident.get("event")), int(incident["step"])
    if is_number(incident.get("diverged_at")):
        return f"step {int(incident['diverged_at']):,}: {event} to step {at:,}, {incident.get('what')}{named}{more}"
    return f"step {at:,}: {event}, {incident.get('what')}{named}{more}"


def _texts(value: object) -> Sequence[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def read(path: Path) -> RunLog:
    """The run of a folder or of its log. Raises: StorageError: there is no log, or nothing in it."""
    log = path / LOG if path.is_dir() else path
    if not log.is_file():
        do = "name the --out folder of a pretraining; its log is written from the first step on"
        raise StorageError(wanted=f"a run with its {LOG}", got="none", where=path, do=do)
    found = list(lines(log))
    incidents = tuple(line for line in found if "event" in line)
    folder = log.absolute().parent
    return RunLog(
        name=folder.name, folder=folder, lines=tuple(line for line in found if "event" not in line), incidents=incidents
    )


def under(folder: Path) -> dict[str, RunLog]:
    """{its path below `folder`: a run} of all runs with numbers there; one in the folder itself goes by its name."""
    found = {}
    for path in files.below(folder, LOG):
        log = read(path)
        if log.lines:
            place = path.parent.relative_to(folder).as_posix()
            found[log.name if place == "." else place] = log
    return found
