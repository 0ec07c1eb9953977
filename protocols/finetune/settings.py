"""Settings of fine-tuning: recipes for ImageNet and for small datasets."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from evaltk import settings_rules

if TYPE_CHECKING:
    from evaltk.types import Arch
    from protocols.finetune.recipe import Tuning


COUNTS = ("epochs", "batch", "group", "repeats")
SHARES = ("layer_decay", "drop_path", "smoothing", "erase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of fine-tuning; what is left out is the recipe's own.

    Attributes:
        recipe: imagenet (BEiT's, as iBOT packages it), small (DeiT's), or auto: by the dataset.
        lr: peak learning rates, one training each (imagenet: 8e-4 9e-4 1e-3 2e-3; small: 7.5e-6, times batch / 512).
        epochs: passes over the training images (imagenet: 200, from width 768 on 100; small: 1000).
        batch: images per step, over all processes (imagenet: 1024; small: 768).
        group: images that share a draw of mixup, and a forward pass (imagenet: 128; small: 96; with another batch the
            largest number up to that which divides it).
        warmup_epochs: epochs in which the learning rate rises (imagenet: 20; small: 5).
        min_lr: where the learning rate ends (imagenet: 1e-6; small: 1e-5).
        layer_decay: factor of the learning rate from a block to the one below (imagenet: 0.75 or 0.65; small: 1).
        weight_decay: of AdamW, on matrices alone (0.05).
        drop_path: highest rate of stochastic depth (0.1; imagenet from width 768 on: 0.2).
        smoothing: of labels (0.1).
        mixup: alpha of mixup (0.8; 0: none).
        cutmix: alpha of cutmix (1; 0: none).
        erase: probability that a rectangle is erased (0.25).
        augment: RandAugment as timm spells it (rand-m9-mstd0.5-inc1), or none: colours are jittered instead.
        repeats: views of an image in one epoch (imagenet: 1; small: 3).
        holdout: share of the training images held out, by class, to choose the learning rate on (0: do not choose).
        metric: top1, mean_per_class, or auto: what papers report on the dataset.
    """

    recipe: Literal["auto", "imagenet", "small"] = "auto"
    lr: tuple[float, ...] | None = None
    epochs: int | None = None
    batch: int | None = None
    group: int | None = None
    warmup_epochs: int | None = None
    min_lr: float | None = None
    layer_decay: float | None = None
    weight_decay: float | None = None
    drop_path: float | None = None
    smoothing: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    erase: float | None = None
    augment: Literal["rand-m9-mstd0.5-inc1", "none"] | None = None
    repeats: int | None = None
    holdout: float = 0.0
    metric: Literal["auto", "top1", "mean_per_class"] = "auto"

    def __post_init__(self) -> None:
        rules = {
            "recipe": (self.recipe not in ("auto", "imagenet", "small"), "auto, imagenet or small"),
            "lr": (self.lr is not None and not _positive(self.lr), "learning rates > 0, each once"),
            "holdout": (not 0 <= self.holdout <= 0.5, "a share of 0 to 0.5"),
            "augment": (self.augment not in (None, "rand-m9-mstd0.5-inc1", "none"), "rand-m9-mstd0.5-inc1 or none"),
            "metric": (self.metric not in ("auto", "top1", "mean_per_class"), "auto, top1 or mean_per_class"),
        }
        for name in COUNTS:
            value = getattr(self, name)
            rules[name] = (value is not None and value < 1, "at least 1")
        for name in ("warmup_epochs", "min_lr", "weight_decay", "mixup", "cutmix", *SHARES):
            value = getattr(self, name)
            odd = value is not None and not (0 <= value <= (1 if name in SHARES else math.inf) and value < math.inf)
            rules[name] = (odd, "a share of 0 to 1" if name in SHARES else "at least 0")
        settings_rules.check("finetune", self, rules)

    def tuning(self, dataset: str, arch: Arch) -> tuple[str, Tuning, tuple[str, ...]]:
        """(the recipe's name, the recipe with what is set here, where it differs from the published one).

        Raises: SettingsError: a group that does not divide the batch, or of an odd number of images with mixing.
        """
        from protocols.finetune import recipe as finetuning

        name: Literal["imagenet", "small"] = (
            ("imagenet" if dataset == "imagenet" else "small") if self.recipe == "auto" else self.recipe
        )
        published = finetuning.preset(name, arch)
        shared = {f.name for f in fields(self)} & {f.name for f in fields(published)}
        given = {key: getattr(self, key) for key in sorted(shared) if getattr(self, key) is not None}
        if "lr" in given:
            given["lr"] = tuple(sorted(given["lr"]))
        if "batch" in given and "group" not in given:
            given["group"] = _group(given["batch"], replace(published, **given))
        tuning = replace(published, **given)
        if tuning.batch % tuning.group:
            wanted = f"a divisor of the batch of {tuning.batch}"
            raise settings_rules.refusal("finetune", "group", wanted, tuning.group)
        if tuning.group % 2 and (tuning.mixup or tuning.cutmix):
            wanted = "an even number of images, which are mixed in pairs"
            raise settings_rules.refusal("finetune", "group", wanted, tuning.group)
        changed = [(key, value) for key, value in given.items() if value != getattr(published, key)]
        differences = tuple(f"{key} {_words(value)} for {_words(getattr(published, key))}" for key, value in changed)
        return name, tuning, differences


def _group(batch: int, tuning: Tuning) -> int:
    """The largest group of at most the recipe's that divides the batch, even where images are mixed in pairs."""
    mixed = bool(tuning.mixup or tuning.cutmix)
    fitting = [n for n in range(1, min(batch, tuning.group) + 1) if not (batch % n or (mixed and n % 2))]
    if not fitting:
        wanted = "an even number of images, which are mixed in pairs"
        raise settings_rules.refusal("finetune", "batch", wanted, batch)
    return max(fitting)


def _positive(values: tuple[float, ...]) -> bool:
    return bool(values) and all(0 < v < math.inf for v in values) and len(set(values)) == len(values)


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, int | float) else str(value)
