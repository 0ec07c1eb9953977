"""Time of a training step with and without log C_p, and memory of the loss with K = 65,536 prototypes and 12 views."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from evaltk import vmf
from pretrain import centering, prototypes
from pretrain.methods import dino

K, DIM, BATCH, VIEWS, GLOBALS = 65_536, 256, 16, 12, 2
STUDENT, TEACHER = 0.1, 0.04
REPEATS = 7


def head_step(kind: prototypes.Kind, y: Tensor, teacher_y: Tensor, g: Tensor, v: Tensor, center: Tensor) -> None:
    """Prototype scores, centring, loss and its gradient, as in a step; only `kind` differs."""
    scores = prototypes.weight_norm_scores(y, g, v, kind=kind, temperature=STUDENT)
    with torch.no_grad():
        teacher_scores = prototypes.weight_norm_scores(teacher_y, g, v, kind=kind, temperature=TEACHER)
    centering.accumulate(teacher_scores, kind="probability", previous=None)
    dino.loss(
        scores, teacher_scores, center, student_temperature=1.0, teacher_temperature=1.0, overwrite=True
    ).backward()


def log_normalizer_alone(g: Tensor) -> None:
    """DINO-vMF's extra work per step: log C_p of K prototypes for both networks, and the student's gradient."""
    with torch.no_grad():
        vmf.log_normalizer_shifted(g.squeeze(1) / TEACHER, DIM)
    vmf.log_normalizer_shifted(g.squeeze(1) / STUDENT, DIM).sum().backward()


def least(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least wall time of each in seconds, interleaved so that all are affected by a slow phase of the machine."""
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - started)
    return times


def main() -> None:
    """Print the share of the vMF term and the memory of the loss."""
    draw = torch.Generator().manual_seed(0)
    y, teacher_y = (
        torch.nn.functional.normalize(torch.randn(rows, DIM, generator=draw), dim=1)
        for rows in (VIEWS * BATCH, GLOBALS * BATCH)
    )
    g, v = torch.ones(K, 1, requires_grad=True), torch.randn(K, DIM, generator=draw, requires_grad=True)
    y.requires_grad_()
    center = torch.zeros(K)
    times = least(
        {
            "linear": lambda: head_step("linear", y, teacher_y, g, v, center),
            "vmf": lambda: head_step("vmf", y, teacher_y, g, v, center),
            "term": lambda: log_normalizer_alone(g),
        },
        REPEATS,
    )
    print(f"   last layer, centring, loss and gradients, K = {K:,}, {BATCH} images, {VIEWS} views, no backbone:")
    linear, vmf_step, term = (1e3 * times[name] for name in ("linear", "vmf", "term"))
    print(f"   linear {linear:.0f} ms, vMF {vmf_step:.0f} ms; log C_p alone {term:.2f} ms")
    print(f"   the vMF term: {100 * term / linear:.2f} % of this part of a step (target: below 2 % of a whole step)")
    for name in ("plain", "ours"):
        command = [sys.executable, "-m", "benchmarks._loss_memory", name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        copy, forward, backward = map(float, output.split())
        print(
            f"   {name}: scores {copy:.0f} MiB; peak besides them {forward / copy:.2f} copies forward, "
            f"{backward / copy:.2f} backward"
        )
