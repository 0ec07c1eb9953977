"""Settings of the prototype analyses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evaltk.errors import SettingsError
from evaltk.prototypes.defaults import DISTANCE, THRESHOLD, THRESHOLDS, VOID_COSINE, VOID_SHARE

if TYPE_CHECKING:
    import numpy as np


Reading = Literal["leader", "first-seen", "components", "largest-first"]
Formulation = Literal["auto", "linear", "cosine", "vmf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the prototype analysis.

    Attributes:
        threshold: cosine above which two prototypes are duplicates (0.9, Table 4).
        thresholds: thresholds of the sweep (Figures 6 and 7; the paper does not state its grid).
        readings: definitions of duplicates to count under; leader is the primary one.
        other_branch: also count the student's prototypes.
        permutations: number of random row orders to run `leader` on.
        distance: cosine distance for the share of unique prototypes as in follow-up work (0.025).
        formulation: how images are scored; auto: as stated in the file, else linear.
        temperature: tau; the first one is primary (0.07, the final teacher temperature), the others are variants.
        centre: also report variants with the training centre, if the file contains it.
        void_cosine: maximum cosine of a void set's mean direction with the data mean (paper: "exactly -1", sec. 5.2).
        void_share: share of the prototypes that a void set holds at least.
        min_images: images a prototype needs to be included in comparisons of precisions.
        gallery: images per prototype in the gallery (0: no gallery).
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
    void_cosine: float = VOID_COSINE
    void_share: float = VOID_SHARE
    min_images: int = 10
    gallery: int = 8

    def __post_init__(self) -> None:
        for name, value in [("threshold", self.threshold), *(("thresholds", t) for t in self.thresholds)]:
            if not -1 < value < 1:
                wanted, do = "a cosine in (-1, 1)", "use 0.9, as in the paper"
                raise SettingsError(wanted=wanted, got=str(value), where=f"--prototypes.{name}", do=do)
        if not self.temperature or min(self.temperature) <= 0:
            got = str(self.temperature)
            raise SettingsError(wanted="temperatures > 0", got=got, where="--prototypes.temperature", do="use 0.07")
        if not 0 < self.distance < 2:
            got = str(self.distance)
            raise SettingsError(wanted="a distance in (0, 2)", got=got, where="--prototypes.distance", do="use 0.025")
        if not -1 <= self.void_cosine < 0:
            wanted, got, where = "a cosine in [-1, 0)", str(self.void_cosine), "--prototypes.void-cosine"
            raise SettingsError(wanted=wanted, got=got, where=where, do=f"use {VOID_COSINE:g}")
        if not 0 <= self.void_share <= 1:
            wanted, got, where = "a share in [0, 1]", str(self.void_share), "--prototypes.void-share"
            raise SettingsError(wanted=wanted, got=got, where=where, do=f"use {VOID_SHARE:g}")
        for name, value, least in (
            ("permutations", self.permutations, 0),
            ("min_images", self.min_images, 2),
            ("gallery", self.gallery, 0),
        ):
            if value < least:
                where = f"--prototypes.{name}"
                raise SettingsError(wanted=f">= {least}", got=str(value), where=where, do=f"use {least} or more")

    def sweep(self) -> tuple[float, ...]:
        """The thresholds, including the primary one, in ascending order."""
        return tuple(sorted({*self.thresholds, self.threshold}))


def varies(values: np.ndarray) -> bool:
    """Whether the values differ by more than rounding."""
    return bool(values.max() - values.min() > 1e-5 * abs(values).max())
