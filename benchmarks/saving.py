"""What a checkpoint costs the steps of a training: written in the background, against written in between."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pretrain import checkpoint, loop, methods, nets, recipe, schedules
from pretrain.data.loader import HostBatch
from pretrain.state import State

SETTINGS = (
    "net.arch=vit_tiny_patch16_224", "method.num_prototypes=8192", "run.precision=fp32", "run.disk_minutes=1",
    "views.num_local=2", "views.global_size=64", "views.local_size=32",
)  # fmt: skip
BATCH, STEPS, ROUNDS = 4, 6, 3
RATES = schedules.Rates(lr=1e-4, weight_decay=0.04, momentum=0.99)


def batch(made: recipe.Recipe) -> HostBatch:
    """Noise."""
    draw = torch.Generator().manual_seed(0)
    sizes = [made.views.global_size] * made.views.num_global + [made.views.local_size] * made.views.num_local
    views = [torch.randint(0, 256, (BATCH, 3, s, s), dtype=torch.uint8, generator=draw) for s in sizes]
    return HostBatch(index=torch.arange(BATCH), ids=("",) * BATCH, bad=(), views=views)


def main() -> None:
    """Print the share of the steps' time."""
    made = recipe.load("dino_vmf_vits16", SETTINGS)
    method = methods.get(made.method.name)
    arch = nets.parse(made.net.arch)
    state: State[Any] = loop.init_state(made, method, arch, torch.device("cpu"))
    given = batch(made)

    def steps() -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            loop.train_step([given], state, method, made, RATES, stop=False)
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as name:
        saver = checkpoint.Saver(Path(name), made, method, arch)
        found: dict[str, list[float]] = {"plain": [], "background": [], "between": [], "call": []}
        steps()
        for _ in range(ROUNDS):
            found["plain"].append(steps())
            started = time.perf_counter()
            saver.save(state)
            found["call"].append(time.perf_counter() - started)
            found["background"].append(found["call"][-1] + steps())
            saver.writer.wait()
            started = time.perf_counter()
            saver.save(state, wait=True)
            found["between"].append(time.perf_counter() - started)
        size = (Path(name) / checkpoint.LAST).stat().st_size
    plain, background, between, call = (statistics.median(found[key]) for key in found)
    extra, minutes = background - plain, made.run.save_minutes
    print(f"   a checkpoint of {size / 1e6:,.0f} MB; a step takes {plain / STEPS:.2f} s")
    lost = max(extra, 0)
    print(f"   written in between: {between:.2f} s; in the background: {call:.2f} s to copy, {lost:.2f} s in all")
    print(f"   of a checkpoint every {minutes:g} minutes: {100 * lost / (60 * minutes):.3f} % of the steps' time")
