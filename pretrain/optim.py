"""Between backward and the next step: parameter groups, clipping, freezing, the teacher's average.

Source: dino main_dino.py:237-350, utils.py:132-143, 632-643.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretrain import card

CLIP_EPS = 1e-6
WAYS = ("fused", "foreach", "capturable")  # of an optimizer to compute, which change no setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Optim:
    """AdamW and its schedules.

    Attributes:
        batch: images per step over all processes. lr: peak; with scale_lr it is multiplied by batch/256.
        warmup_epochs: of the learning rate; may be a fraction. freeze_last_layer: in whole epochs.
        clip: 0 is off; clip_kind: parameter (each tensor's own norm, DINO) or global.
        momentum, momentum_end: of the teacher. stretch: length of the schedules over that of the run (MSN: 1.25).
    """

    batch: int = 1024
    epochs: int = 100
    lr: float = 5e-4
    scale_lr: bool = True
    start_lr: float = 0.0
    min_lr: float = 1e-6
    warmup_epochs: float = 10
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    clip: float = 3.0
    clip_kind: Literal["parameter", "global"] = "parameter"
    freeze_last_layer: int = 1
    momentum: float = 0.996
    momentum_end: float = 1.0
    stretch: float = 1.0


def groups(student: nn.Module, *, undecayed: Collection[str] = ()) -> list[dict[str, Any]]:
    """AdamW's two groups: with weight decay (matrices, also weight_g, positions and class token), and without.

    Args:
        undecayed: names of parameters without decay besides biases and other vectors.
    """
    with_decay: list[nn.Parameter] = []
    without: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = name.endswith(".bias") or parameter.ndim == 1 or name in undecayed
        (without if plain else with_decay).append(parameter)
    return [{"params": with_decay}, {"params": without, "weight_decay": 0.0}]


def adamw(groups: list[dict[str, Any]], device: torch.device) -> torch.optim.AdamW:
    """AdamW, one fused kernel for all tensors where the device has it; elsewhere torch's own choice."""
    return torch.optim.AdamW(groups, lr=0.0, fused=True if card.is_card(device) else None)


def as_here(stored: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A stored state of an optimizer, to be computed on as this one computes: a GPU's is fused, a CPU's is not."""
    here = {name: value for name, value in optimizer.param_groups[0].items() if name in WAYS}
    return {**stored, "param_groups": [{**group, **here} for group in stored["param_groups"]]}


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Set the learning rate of both of `groups`, and the weight decay of the first."""
    for group, decay in zip(optimizer.param_groups, (weight_decay, 0.0), strict=True):
        group["lr"], group["weight_decay"] = lr, decay


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale each tensor's own gradient to norm `limit` where it is larger (not the global norm); returns the norms.

    Source: dino utils.py:132-143.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(grads))
    if limit > 0:
        factors = (limit / (norms + CLIP_EPS)).clamp(max=1.0)
        torch._foreach_mul_(grads, list(factors.unbind()))
    return norms


@torch.no_grad()
def clip_global(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `limit`; returns the norm of each."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(grads))
    if limit > 0:
        torch._foreach_mul_(grads, (limit / (norms.norm() + CLIP_EPS)).clamp(max=1.0))
    return norms


def freeze(student: nn.Module, names: Collection[str]) -> None:
    """Remove the gradients of parameters whose name contains one of `names`.

    None, not zero, so that AdamW neither moves nor decays them.
    """
    for name, parameter in student.named_parameters():
        if any(part in name for part in names):
            parameter.grad = None


@torch.no_grad()
def average(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- m teacher + (1 - m) student over parameters, not buffers; g and v each on their own."""
    pairs = dict(teacher.named_parameters())
    mine = [pairs[name] for name, _ in student.named_parameters()]
    torch._foreach_lerp_(mine, [p.detach() for _, p in student.named_parameters()], 1.0 - momentum)
