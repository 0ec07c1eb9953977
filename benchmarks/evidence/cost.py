"""What the constant log C_p costs: a step of the loss with and without it, interleaved, on one thread."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from pretrain import prototypes
from pretrain.methods import dino

REPEATS = 9
ROWS, DIM = 64, 256  # student rows of a step, the paper's bottleneck
KS = (1024, 8192, 65536)


def measure() -> list[dict[str, Any]]:
    """Seconds of forward and backward of scores and loss, linear and vmf alternating, for each K: all repeats."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_of(k) for k in KS]
    finally:
        torch.set_num_threads(before)


def _of(k: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    y = torch.nn.functional.normalize(torch.randn(ROWS, DIM, generator=draw), dim=1)
    v = torch.randn(k, DIM, generator=draw, requires_grad=True)
    g = torch.full((k, 1), 20.0, requires_grad=True)
    teacher, centre = torch.randn(ROWS, k, generator=draw), torch.zeros(k)
    seconds: dict[str, list[float]] = {"linear": [], "vmf": []}
    for repeat in range(REPEATS + 1):
        for kind in ("linear", "vmf"):
            spent = _step(kind, y, g, v, teacher, centre)
            if repeat:  # the first one warms up
                seconds[kind].append(round(spent, 6))
    return {"K": k, "rows": ROWS, "dim": DIM, **seconds}


def _step(kind: Any, y: Tensor, g: Tensor, v: Tensor, teacher: Tensor, centre: Tensor) -> float:
    started = time.process_time()
    scores = prototypes.weight_norm_scores(y, g, v, kind=kind, temperature=0.1)
    loss = dino.loss(scores, teacher, centre, student_temperature=1.0, teacher_temperature=1.0)
    loss.backward()
    v.grad = g.grad = None
    return time.process_time() - started
