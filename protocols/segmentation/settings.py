"""Settings of the segmentation protocol, with presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaltk import settings_rules

SIDE = 512  # of the crops; mmsegmentation's for VOC and ADE20K
ITERATIONS = {"dinov2": 40_000, "quick": 1_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of segmentation of patch tokens.

    Attributes:
        preset: dinov2 (40,000 steps of 16 images, random scales from 0.5 to 2, crops, flips) or quick (1,000 steps,
            crops and flips alone).
        methods: linear (BatchNorm and a linear layer on the last block's patch tokens), knn (nearest patches).
        side: of training crops, and shorter side of test images, in pixels; default: 512 to whole patches, nets for
            images below 96 px four times their own.
        iterations: training steps; default: by the preset.
        batch: images per step.
        lr: peak learning rate of AdamW, after a linear warm-up falling linearly to 0.
        weight_decay: of AdamW.
        warmup: steps; at most a tenth of all.
        k: nearest patches that vote.
        bank: patches of training images that are searched.
        temperature: of the votes, exp(cosine / temperature).
    """

    preset: Literal["dinov2", "quick"] = "dinov2"
    methods: tuple[Literal["linear", "knn"], ...] = ("linear",)
    side: int | None = None
    iterations: int | None = None
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 1_500
    k: int = 30
    bank: int = 50_000
    temperature: float = 0.02

    def __post_init__(self) -> None:
        rules = {
            "methods": (not self.methods, "linear or knn"),
            "side": (self.side is not None and self.side < 8, ">= 8"),
            "iterations": (self.iterations is not None and self.iterations < 1, ">= 1"),
            "batch": (self.batch < 1, ">= 1"),
            "lr": (not self.lr > 0, "> 0"),
            "weight_decay": (not self.weight_decay >= 0, ">= 0"),
            "warmup": (self.warmup < 0, ">= 0"),
            "k": (not 1 <= self.k <= self.bank, "1 to the size of the bank"),
            "temperature": (not self.temperature > 0, "> 0"),
        }
        settings_rules.check("segmentation", self, rules)

    def steps(self) -> int:
        """Training steps."""
        return self.iterations or ITERATIONS[self.preset]
