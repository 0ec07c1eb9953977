"""Settings of the prototype analyses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evaltk.errors import SettingsError
from evaltk.prototypes.defaults import DISTANCE, THRESHOLD, THRESHOLDS

if TYPE_CHECKING:
    import numpy as np


Reading = Literal["leader", "first-seen", "components", "largest-first"]
Formulation = Literal["auto", "linear", "cosine", "vmf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the prototype analyses; thresholds: Figures 6 and 7.

    Attributes:
        threshold: cosine above which two prototypes are near-copies (0.9, Table 4).
        thresholds: the sweep (Figures 6 and 7; their grid is not printed).
        readings: ways to count what remains when near-copies are removed; leader is the primary one.
        other_branch: count the student's prototypes beside the teacher's.
        permutations: random orders that `leader` is also run in.
        distance: cosine distance of the follow-up literature's share of unique prototypes (0.025).
        formulation: how an image is scored; auto: as the file says, else linear.
        temperature: tau; the first is the primary one (0.07, the teacher's last), the others are variants.
        centre: report the variants with the training centre too, where the file has it.
        void_cosine: a void set's mean direction has at most this cosine with the data mean ("exactly -1", section 5.2).
        min_images: images a prototype must have to count in what compares precisions.
        gallery: images kept for each prototype shown (0: none).
    """

    threshold: float = THRESHOLD
    thresholds: tuple[float, ...] = THRESHOLDS
    readings: tuple[Reading, ...] = ("leader", "first-seen", "components", "largest-first")
    other_branch: bool = True
    permutations: int = 5
    distance: float = DISTANCE
    formulation: Formulation = "auto"
    temperature: tuple[float, ...] = (0.07, 0.1)
    centre: bool = True
    void_cosine: float = -0.99
    min_images: int = 10
    gallery: int = 8

    def __post_init__(self) -> None:
        for name, value in [("threshold", self.threshold), *(("thresholds", t) for t in self.thresholds)]:
            if not -1 < value < 1:
                wanted, do = "a cosine in (-1, 1)", "0.9 is the paper's; 0.5 to 0.99 is usual"
                raise SettingsError(wanted=wanted, got=str(value), where=f"--prototypes.{name}", do=do)
        if not self.temperature or min(self.temperature) <= 0:
            got = str(self.temperature)
            raise SettingsError(wanted="temperatures > 0", got=got, where="--prototypes.temperature", do="use 0.07")
        if not 0 < self.distance < 2:
            got = str(self.distance)
            raise SettingsError(wanted="a distance in (0, 2)", got=got, where="--prototypes.distance", do="use 0.025")
        for name, value, least in (
            ("permutations", self.permutations, 0),
            ("min_images", self.min_images, 2),
            ("gallery", self.gallery, 0),
        ):
            if value < least:
                where = f"--prototypes.{name}"
                raise SettingsError(wanted=f">= {least}", got=str(value), where=where, do="mend the flag")

    def sweep(self) -> tuple[float, ...]:
        """The thresholds, the primary one among them, rising."""
        return tuple(sorted({*self.thresholds, self.threshold}))


def varies(values: np.ndarray) -> bool:
    """Whether there is more than rounding between the least and the greatest value."""
    return bool(values.max() - values.min() > 1e-5 * abs(values).max())
