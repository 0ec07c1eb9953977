"""The parts of fine-tuning: the recipe, learning rates by layer and by step, the order of images, the net.

Two recipes are known. ``imagenet`` is BEiT's with a decay of the learning rate by layer, as iBOT packages it:
ibot/evaluation/classification_layer_decay/run_class_finetuning.py at c24f870. ``small`` is DeiT's for small datasets:
ibot/evaluation/eval_cls.py at c24f870; Govindarajan et al., ICLR 2023 (arXiv 2405.10939), A.6.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from evaltk.models import vit
from evaltk.seeding import generator, normal
from evaltk.types import Arch, PositionRule

BETAS, EPS = (0.9, 0.999), 1e-8
LR_BATCH = 512  # images per step that the small recipe's learning rate is for; eval_cls.py, linear_scaled_lr
REPEATS_ROUND = 256  # repeated augmentation leaves what is no multiple of this out of an epoch; eval_cls.py, RASampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How a net is fine-tuned.

    Attributes:
        lr: peak learning rates to try, one training each. scale_lr: they are multiplied by batch / 512.
        epochs: passes. batch: images per step, over all processes. group: images that share a draw of mixup.
        schedule: ``step`` (warm-up from `warmup_lr` by step, then a cosine to `min_lr`) or ``epoch`` (timm's cosine,
            set after each epoch, so that the first two are run at `warmup_lr`).
        warmup_epochs: of the schedule. layer_decay: factor of the learning rate from a block to the one below.
        weight_decay: of AdamW, on matrices alone. drop_path: highest rate of stochastic depth, rising by block.
        smoothing, mixup, cutmix, erase: label smoothing, alphas of the two mixings, probability of erasing.
        augment: RandAugment in timm's words, or none. repeats: times each image of an epoch comes, in other views.
        head_scale: what the new head's first weights are multiplied by.
        interpolation: filter of the evaluation's resize.
    """

    lr: tuple[float, ...]
    scale_lr: bool
    epochs: int
    batch: int
    group: int
    schedule: Literal["step", "epoch"]
    warmup_epochs: int
    warmup_lr: float
    min_lr: float
    layer_decay: float
    weight_decay: float = 0.05
    drop_path: float
    smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    erase: float = 0.25
    augment: str = "rand-m9-mstd0.5-inc1"
    repeats: int
    head_scale: float
    interpolation: Literal["bicubic", "bilinear"]


def preset(name: Literal["imagenet", "small"], arch: Arch) -> Tuning:
    """The published recipe; that for ImageNet differs between ViT-S and ViT-B, the wider from 768 on."""
    if name == "small":
        return Tuning(
            lr=(7.5e-6,), scale_lr=True, epochs=1000, batch=768, group=96, schedule="epoch", warmup_epochs=5,
            warmup_lr=1e-6, min_lr=1e-5, layer_decay=1.0, drop_path=0.1, repeats=3, head_scale=1.0,
            interpolation="bicubic",
        )  # fmt: skip
    wide = arch.embed_dim >= 768
    return Tuning(
        lr=(8e-4, 9e-4, 1e-3, 2e-3), scale_lr=False, epochs=100 if wide else 200, batch=1024, group=128,
        schedule="step", warmup_epochs=20, warmup_lr=0.0, min_lr=1e-6, layer_decay=0.65 if wide else 0.75,
        drop_path=0.2 if wide else 0.1, repeats=1, head_scale=0.001, interpolation="bilinear",
    )  # fmt: skip


def learning_rates(tuning: Tuning, peak: float, steps: int) -> np.ndarray:
    """The learning rate of every step, float64 [epochs * steps]; `steps`: of an epoch.

    Source: ibot/utils.py, cosine_scheduler; timm's CosineLRScheduler as eval_cls.py calls it after each epoch.
    """
    top = peak * tuning.batch / LR_BATCH if tuning.scale_lr else peak
    total, low = tuning.epochs * steps, tuning.min_lr
    if tuning.schedule == "step":
        warm = min(total, tuning.warmup_epochs * steps)
        rising = np.linspace(tuning.warmup_lr, top, warm)
        share = np.arange(total - warm) / max(1, total - warm)
        return np.concatenate([rising, low + (top - low) * (1 + np.cos(np.pi * share)) / 2])
    done = np.maximum(np.arange(tuning.epochs) - 1, 0)  # the scheduler is told of an epoch after it
    cosine = low + (top - low) * (1 + np.cos(np.pi * done / tuning.epochs)) / 2
    if tuning.warmup_epochs:
        rising = tuning.warmup_lr + done * (top - tuning.warmup_lr) / tuning.warmup_epochs
        cosine = np.where(done < tuning.warmup_epochs, rising, cosine)
    return np.repeat(cosine, steps)


def order(count: int, repeats: int, epoch: int, *, seed: int) -> np.ndarray:
    """Numbers of the images of an epoch in their order, a fresh permutation; repeated ones follow each other.

    With repeats an epoch is no longer than without: a part of the images, each `repeats` times.
    """
    mixed = torch.randperm(count, generator=generator(seed, "finetune", "order", epoch)).numpy()
    if repeats == 1:
        return mixed
    kept = count // REPEATS_ROUND * REPEATS_ROUND or count
    return np.repeat(mixed, repeats)[:kept]


def groups(numbers: np.ndarray, tuning: Tuning) -> np.ndarray:
    """Numbers by step and group, [steps, batch / group, group]; what fills no batch is left out.

    Neighbours fall into different groups, as into the processes of the original: views of one image are not mixed.
    """
    steps = len(numbers) // tuning.batch
    whole = numbers[: steps * tuning.batch].reshape(steps, tuning.group, tuning.batch // tuning.group)
    return np.ascontiguousarray(whole.transpose(0, 2, 1))


class Classifier(nn.Module):
    """A ViT with a linear head on its class token after the final norm."""

    def __init__(self, net: vit.ViT, head: nn.Linear) -> None:
        super().__init__()
        self.net, self.head = net, head

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W], normalised."""
        (x,) = self.net.last_blocks(images)
        logits: Tensor = self.head(self.net.norm(x[:, :1])[:, 0])
        return logits


def build(
    arch: Arch,
    weights: Mapping[str, Tensor],
    num_classes: int,
    tuning: Tuning,
    *,
    position: PositionRule | None,
    seed: int,
) -> Classifier:
    """The net before the first step: its own copy of the weights, and a head drawn from a stream of its own."""
    net = vit.build(arch, {k: t.clone() for k, t in weights.items()}, position=position, drop_path=tuning.drop_path)
    net.requires_grad_(True)
    net.mask_token.requires_grad_(False)  # no image is masked
    head = nn.Linear(arch.embed_dim, num_classes)
    with torch.no_grad():
        drawn = normal(*head.weight.shape, std=0.02, generator=generator(seed, "finetune", "head"))
        head.weight.copy_(drawn).mul_(tuning.head_scale)
        head.bias.zero_()
    return Classifier(net, head)


def layer(name: str, depth: int) -> int:
    """The layer of a parameter of a Classifier: 0 what enters the first block, i + 1 block i, depth + 1 norm and head.

    Source: optim_factory.py:32-43, get_num_layer_for_vit.
    """
    if name.startswith("net.blocks."):
        return int(name.split(".")[2]) + 1
    above = name.startswith(("net.norm.", "net.fc_norm.", "head."))
    return depth + 1 if above else 0


def parameter_groups(model: Classifier, tuning: Tuning) -> list[dict[str, Any]]:
    """Groups for AdamW with `lr_scale`, the factor of the learning rate: layer_decay^(depth + 1 - layer).

    Vectors, biases, positions and class tokens are not decayed (optim_factory.py:69-97, get_parameter_groups).
    """
    depth = model.net.arch.depth
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        still = parameter.ndim == 1 or name.endswith((".bias", "pos_embed", "cls_token", "reg_token"))
        at = layer(name, depth)
        empty = {
            "params": [],
            "weight_decay": 0.0 if still else tuning.weight_decay,
            "lr_scale": tuning.layer_decay ** (depth + 1 - at),
        }
        found.setdefault((at, still), empty)["params"].append(parameter)
    return list(found.values())


def soft_target(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Smoothed one-hot rows [B, C] float32: smoothing / C everywhere, 1 - smoothing more at the label."""
    rows = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    return rows.scatter_add_(1, labels[:, None], torch.full_like(rows[:, :1], 1 - smoothing))


def steps_of(count: int, tuning: Tuning) -> int:
    """Steps of an epoch over `count` images."""
    kept = count if tuning.repeats == 1 else count // REPEATS_ROUND * REPEATS_ROUND or count
    return math.floor(kept / tuning.batch)
