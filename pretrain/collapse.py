"""Signs of collapse in the log of a run, named when they begin and once they are there, with what helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LASTING = 3  # lines of the log on end after which a collapse is taken for one
UNIFORM, NEARLY, LOWER = 0.99, 0.95, 0.9  # of ln K
FALLEN = 0.1  # of the most there was: prototypes used, kappa
RANK_FALLEN, RANK_GONE = 0.25, 1.5
RISEN = 100.0  # times the least kappa there was
LARGEST = 1e300  # whole numbers beyond it are no floats; NaN is not below it either
SOFTER = "lower method.teacher_temp, or soften crops and colours in [views]"
HARDER = "raise method.teacher_temp, lower optim.lr, or lengthen optim.warmup_epochs"
TRACKED = ("teacher_entropy", "prototypes_used", "feature_rank", "kappa_median")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A sign of collapse.

    Attributes:
        kind: its name, by which it is followed from line to line. text: in words, with its numbers. do: what helps.
        complete: whether the collapse is there, not just beginning. fatal: whether ``--stop-on-collapse`` heeds it.
    """

    kind: str
    text: str
    do: str
    complete: bool = True
    fatal: bool = True


class History:
    """What the lines so far had least and most of, and how long each sign has been there."""

    def __init__(self) -> None:
        self.least: dict[str, float] = {}
        self.most: dict[str, float] = {}
        self.lasting: dict[str, int] = {}

    def add(self, line: Mapping[str, Any], found: list[Sign]) -> None:
        """Count a line with its signs. A sign of what the line does not tell stays as it is."""
        for name in TRACKED:
            if _number(line.get(name)):
                value = float(line[name])
                self.least[name] = min(value, self.least.get(name, value))
                self.most[name] = max(value, self.most.get(name, value))
        kinds = {sign.kind for sign in found if sign.complete and sign.fatal}
        for kind, told_by in (
            ("uniform", "teacher_entropy"),
            ("one prototype", "prototypes_used"),
            ("rank", "feature_rank"),
        ):
            if told_by in line:
                self.lasting[kind] = self.lasting.get(kind, 0) + 1 if kind in kinds else 0

    def lasts(self, sign: Sign) -> bool:
        """Whether a collapse has been there for `LASTING` lines."""
        return sign.complete and sign.fatal and self.lasting.get(sign.kind, 0) >= LASTING


def signs(line: Mapping[str, Any], history: History | None = None) -> list[Sign]:
    """The signs in a log line. Args: history: of the lines before it, without which beginnings are not seen."""
    before = history or History()
    return [*_of_teacher(line, before), *_of_prototypes(line), *_of_features(line, before), *_of_kappa(line, before)]


def _of_teacher(line: Mapping[str, Any], before: History) -> list[Sign]:
    if not (_number(line.get("log_k")) and _number(line.get("teacher_entropy"))) or line["step"] == 0:
        return []
    log_k, entropy = float(line["log_k"]), float(line["teacher_entropy"])
    loss, found = float(line.get("loss") or 0.0), []
    told = f"{entropy:.3f} of ln K = {log_k:.3f}"
    least = before.least.get("teacher_entropy", math.inf)
    if entropy > UNIFORM * log_k and loss > UNIFORM * log_k:
        found.append(Sign(kind="uniform", text=f"collapse: the teacher is uniform (entropy {told})", do=SOFTER))
    elif min(entropy, loss) > NEARLY * log_k and least < LOWER * log_k:
        text = f"collapse begins: the teacher's entropy rises to {told}, from {least:.3f}"
        found.append(Sign(kind="uniform", text=text, do=SOFTER, complete=False))
    used, most = line.get("prototypes_used"), before.most.get("prototypes_used", 0.0)
    share = line.get("won_share", 1.0)
    if entropy < 0.01 and share * math.exp(log_k) <= 2:
        found.append(Sign(kind="one prototype", text="collapse: one prototype takes every image", do=HARDER))
    elif used is not None and used < FALLEN * most:
        text = f"collapse begins: {used:,} prototypes are used, of {most:,.0f} before"
        found.append(Sign(kind="one prototype", text=text, do=HARDER, complete=False))
    return found


def _of_prototypes(line: Mapping[str, Any]) -> list[Sign]:
    log_k, largest = line.get("log_k"), line.get("largest_duplicate_set", 0)
    if not log_k or largest <= math.exp(log_k) / 2:
        return []
    text = f"void set: {largest} of {round(math.exp(log_k))} prototypes point the same way"
    do = "method.scoring=vmf with method.centering=probability, or fewer prototypes"
    return [Sign(kind="void set", text=text, do=do, fatal=False)]  # published runs have one, too


def _of_features(line: Mapping[str, Any], before: History) -> list[Sign]:
    if not _number(line.get("feature_rank")):
        return []
    rank, most = float(line["feature_rank"]), before.most.get("feature_rank", 0.0)
    if rank < RANK_GONE:
        text = f"collapse: features have an effective rank of {rank:.2f}"
        return [Sign(kind="rank", text=text, do="lower optim.lr or optim.weight_decay_end")]
    if rank < RANK_FALLEN * most:
        text = f"collapse begins: the effective rank of features falls to {rank:.1f}, from {most:.1f}"
        return [Sign(kind="rank", text=text, do="lower optim.lr or optim.weight_decay_end", complete=False)]
    return []


def _of_kappa(line: Mapping[str, Any], before: History) -> list[Sign]:
    if not _number(line.get("kappa_median")):
        return []
    kappa = float(line["kappa_median"])
    most, least = before.most.get("kappa_median", 0.0), before.least.get("kappa_median", math.inf)
    if kappa < FALLEN * most:
        text = f"collapse begins: the median kappa falls to {kappa:.3g}, from {most:.3g}"
        return [Sign(kind="kappa", text=text, do="lower optim.lr or optim.weight_decay_end", complete=False)]
    if kappa > RISEN * least:
        text = f"the median kappa grows to {kappa:.3g}, from {least:.3g}"
        return [Sign(kind="kappa", text=text, do="lower optim.lr", complete=False, fatal=False)]
    return []


def numbers(line: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a line; a log may have been edited."""
    return {name: value for name, value in line.items() if _number(value)}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
