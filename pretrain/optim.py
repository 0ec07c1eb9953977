"""What happens between backward and the next step: parameter groups, clipping, freezing, the teacher's average.

Source: dino main_dino.py:237-350, utils.py:132-143, 632-643.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

CLIP_EPS = 1e-6


def groups(student: nn.Module) -> list[dict[str, object]]:
    """AdamW's groups: the first is decayed (matrices, also weight_g, positions and class token), the second is not.

    MSN's prototypes are not decayed (msn/src/msn_train.py).
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = name.endswith(".bias") or parameter.ndim == 1 or name == "prototypes"
        (spared if plain else decayed).append(parameter)
    return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


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
    """Scale all gradients so that their joint norm is at most `limit`; returns the norms of each."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(grads))
    if limit > 0:
        torch._foreach_mul_(grads, (limit / (norms.norm() + CLIP_EPS)).clamp(max=1.0))
    return norms


def freeze_last_layer(student: nn.Module) -> None:
    """Take the last layer's gradients away: None, not zero, so that AdamW neither moves nor decays it."""
    for name, parameter in student.named_parameters():
        if "last_layer" in name:
            parameter.grad = None


@torch.no_grad()
def average(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- m teacher + (1 - m) student over parameters, not buffers; g and v each on their own."""
    pairs = dict(teacher.named_parameters())
    mine = [pairs[name] for name, _ in student.named_parameters()]
    torch._foreach_lerp_(mine, [p.detach() for _, p in student.named_parameters()], 1.0 - momentum)
