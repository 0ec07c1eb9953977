"""Settings of the shift protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evaltk import settings_rules

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of judging classifiers on other test sets.

    Attributes:
        test_on: other test sets, LABEL=PATH of class folders named as the training set's; LABEL:numbered=PATH where
            folders are numbers of its classes in order (ImageNet-V2).
        imagenet_c: folder of CORRUPTION/SEVERITY/CLASS/IMAGE as published, for the mean corruption error.
        corruptions: corrupt the test images on the fly: names, or all (fourteen).
        severities: of the corruptions made on the fly.
        classifiers: knn, logistic.
        k: neighbours of k-NN.
        temperature: of the votes of k-NN.
        shots: training images per class, drawn by the seed; default: all.
        l2: strength of logistic regression (features at unit length); default: least loss on a tenth of the
            training images.
        bins: of the expected calibration error.
    """

    test_on: tuple[str, ...] = field(default=(), metadata={"metavar": "LABEL=PATH ..."})
    imagenet_c: str | None = field(default=None, metadata={"metavar": "PATH"})
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    classifiers: tuple[Literal["knn", "logistic"], ...] = ("knn",)
    k: int = 20
    temperature: float = 0.07
    shots: int | None = None
    l2: float | None = None
    bins: int = 15

    def __post_init__(self) -> None:
        from evaltk.data.corruptions import KINDS, SEVERITIES

        labels = [word.partition("=")[0].partition(":")[0] for word in self.test_on]
        odd = [
            word
            for word, label in zip(self.test_on, labels, strict=True)
            if not (label.isidentifier() and word.partition("=")[2] and _kind(word) in ("", "numbered"))
        ]
        unknown = [name for name in self.corruptions if name not in (ALL, *KINDS)]
        rules = {
            "test_on": (
                bool(odd) or len(set(labels)) < len(labels) or "test" in labels,
                "LABEL=PATH or LABEL:numbered=PATH, labels in letters, each once, not `test`",
            ),
            "corruptions": (bool(unknown), f"all, or some of {', '.join(KINDS)}"),
            "severities": (
                not self.severities or not set(self.severities) <= set(SEVERITIES),
                "severities from 1 to 5",
            ),
            "classifiers": (not self.classifiers, "knn or logistic"),
            "k": (self.k < 1, ">= 1"),
            "temperature": (not self.temperature > 0, "> 0"),
            "shots": (self.shots is not None and self.shots < 1, ">= 1"),
            "l2": (self.l2 is not None and not self.l2 > 0, "> 0"),
            "bins": (self.bins < 1, ">= 1"),
        }
        settings_rules.check("shift", self, rules)


def _kind(word: str) -> str:
    return word.partition("=")[0].partition(":")[2]
