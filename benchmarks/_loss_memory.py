"""Peak memory of a DINO loss besides the student's scores, measured in a process of its own."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks import _memory
from pretrain.methods import dino

K, BATCH, VIEWS = 65_536, 16, 12


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss as it is usually implemented."""
    q = torch.softmax(teacher / 0.04, dim=-1).chunk(2)
    log_p = torch.log_softmax(student / 0.1, dim=-1).chunk(VIEWS)
    pairs = [-(q[i] * log_p[v]).sum(-1).mean() for i in range(2) for v in range(VIEWS) if v != i]
    return torch.stack(pairs).mean()


def peak(run: object) -> float:
    """Peak memory of `run` in MiB, above the memory in use before."""
    before = _memory.begin()
    assert callable(run)
    run()
    return _memory.peak() - before


dino.loss(torch.randn(24, 64, requires_grad=True), torch.randn(4, 64), torch.zeros(64)).backward()  # loads libraries
leaf = torch.randn(VIEWS * BATCH, K, requires_grad=True)
scores = leaf * 1.0  # as from the last layer: not a leaf, and not used elsewhere
teacher = torch.randn(2 * BATCH, K)
center = torch.zeros(K)
kept: list[Tensor] = []
name = sys.argv[1]
if name == "plain":
    forward = peak(lambda: kept.append(plain(scores, teacher - center)))
else:
    forward = peak(lambda: kept.append(dino.loss(scores, teacher, center, overwrite=True)))
backward = peak(lambda: torch.autograd.grad(kept[0], scores))
print(scores.numel() * 4 / 2**20, forward, backward)
