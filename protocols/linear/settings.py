"""Settings of the linear probe, and which features it is trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from evaltk import settings_rules
from evaltk.types import Recipe

if TYPE_CHECKING:
    from evaltk.types import Arch


LRS = tuple(float(f"{digit}e{power}") for power in range(-4, 1) for digit in range(1, 10))
PAPER_EPOCHS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the linear probe; the defaults are DINO's, with iBOT's sweep of learning rates.

    Attributes:
        lr: base learning rates, one head per rate (iBOT's 45: 1 to 9 times 1e-4 to 1); scaled by batch / 256.
        epochs: passes over the training images (100, dino/eval_linear.py:265); the rate falls by a cosine to 0.
        batch: images per step, over all processes together (256, as DINO's published logs have it).
        blocks: numbers of last blocks whose class tokens are concatenated; default: those of Lin.[C] and Lin.[D].
        pool: none, or mean: the last block's mean patch token is appended; default: as for blocks.
        holdout: share of the training images held out, by class, to choose the learning rate on (0: do not choose).
        fast: train on features extracted once, without augmentation: another protocol, usually lower.
        head: file or catalogue name of a published linear head: it is evaluated, nothing is trained.
        classes: file of the head's classes, one a line in its order, where their names do not tell it.
        head_order: columns of a head on cls and mean: plain, interleaved, or auto: as the checkpoint's family has them.
    """

    lr: tuple[float, ...] = LRS
    epochs: int = PAPER_EPOCHS
    batch: int = 256
    blocks: tuple[int, ...] | None = None
    pool: tuple[Literal["none", "mean"], ...] | None = None
    holdout: float = 0.01
    fast: bool = False
    head: str | None = None
    head_order: Literal["auto", "plain", "interleaved"] = "auto"
    classes: str | None = field(default=None, metadata={"later": True})

    def __post_init__(self) -> None:
        rules = {
            "lr": (not self.lr or not all(0 < lr < math.inf for lr in self.lr), "learning rates > 0"),
            "epochs": (self.epochs < 1, "at least 1"),
            "batch": (self.batch < 1, "at least 1"),
            "blocks": (self.blocks is not None and not (self.blocks and min(self.blocks) >= 1), "numbers >= 1"),
            "pool": (self.pool is not None and not (self.pool and {*self.pool} <= {"none", "mean"}), "none or mean"),
            "holdout": (not 0 <= self.holdout <= 0.5, "a share of 0 to 0.5"),
            "fast": (self.fast and self.head is not None, "no --linear.fast: a published head is not trained"),
            "classes": (self.classes is not None and self.head is None, "a published head beside it (--linear.head)"),
            "head_order": (self.head_order not in ("auto", "plain", "interleaved"), "auto, plain or interleaved"),
        }
        settings_rules.check("linear", self, rules)

    def recipes(self, arch: Arch, *, own: Recipe | None = None) -> tuple[Recipe, ...]:
        """The features heads are trained on: those of Lin.[C] and Lin.[D], or all of blocks x pool.

        Args: own: the feature of the family's own probe, which then is that of Lin.[D].
        """
        if self.blocks is None and self.pool is None:
            return tuple(dict.fromkeys((Recipe(), own or dino_rule(arch)[0])))
        pairs = [(b, p) for b in self.blocks or (1,) for p in self.pool or ("none",)]
        return tuple(dict.fromkeys(Recipe(tokens="cls+mean" if p == "mean" else "cls", last=b) for b, p in pairs))


def dino_rule(arch: Arch) -> tuple[Recipe, str]:
    """(the feature of Lin.[D] for a net, which rule that is, in words).

    Source: dino/eval_linear.py:256-260: ViT-S 4 blocks without pooling, ViT-B one block with.
    """
    four = min(4, arch.depth)
    if arch.kind != "vit":
        return Recipe(), f"the class feature of {arch.name}, which has no choice of blocks"
    if arch.embed_dim < 768:
        told = "DINO's for ViT-S" if arch.embed_dim == 384 else f"DINO's for ViT-S, taken for width {arch.embed_dim}"
        return Recipe(last=four), f"class tokens of the last {four} blocks, each through the final norm ({told})"
    told = "DINO's for ViT-B" if arch.embed_dim == 768 else f"DINO's for ViT-B, taken for width {arch.embed_dim}"
    return Recipe(tokens="cls+mean"), f"class token and mean patch token of the last block ({told})"
