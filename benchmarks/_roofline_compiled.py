"""What compiling saves of a training step: the blocks' kernels and bytes, eager and as torch's Inductor fuses them.

Inductor is asked for a CPU's kernels, since there is none for a GPU without one. It decides there what is fused with
what in the same scheduler; Triton's kernels for a GPU are fused somewhat further, so a GPU is to save a bit more.
"""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks._roofline_count import Count
from pretrain import card, methods, nets
from pretrain.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Launches, and bytes read and written."""

    launches: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(launches=self.launches + other.launches, bytes=self.bytes + other.bytes)

    def __mul__(self, times: int) -> Cost:
        return Cost(launches=self.launches * times, bytes=self.bytes * times)


def blocks(recipe: Recipe, batch: int) -> tuple[Cost, Cost]:
    """All blocks of a step, student and teacher: eager, and compiled. Takes a C++ compiler, and minutes."""
    arch, v = nets.parse(recipe.net.arch), recipe.views
    method = methods.get(recipe.method.name)
    eager, compiled = Cost(), Cost()
    for views, size, trains in (
        (v.num_global, v.global_size, True),
        (v.num_local, v.local_size, True),
        (v.num_global, v.global_size, False),
    ):
        if not views:
            continue
        drop_path = recipe.net.drop_path if trains else 0.0
        block = method.network(arch, recipe.method, drop_path=drop_path).backbone.blocks[-1]
        shape = (views * batch, (size // arch.patch_size) ** 2 + 1, arch.embed_dim)
        eager += count_eager(block, shape, recipe.run.precision, trains=trains) * arch.depth
        compiled += count_compiled(block, shape, recipe.run.precision, trains=trains) * arch.depth
    return eager, compiled


def run(block: nn.Module, shape: tuple[int, int, int], precision: str, *, trains: bool) -> None:
    """Forward, and backward where it trains. Every block but the first also sends a gradient on."""
    x = torch.zeros(shape, requires_grad=trains)
    with card.autocast(x.device, precision), torch.set_grad_enabled(trains):
        y = block(x)
    if trains:
        y.backward(torch.zeros_like(y))


def count_eager(block: nn.Module, shape: tuple[int, int, int], precision: str, *, trains: bool) -> Cost:
    """Every operator is a launch."""
    with Count() as count:
        run(block, shape, precision, trains=trains)
    return Cost(launches=count.launches, bytes=count.bytes)


def count_compiled(block: nn.Module, shape: tuple[int, int, int], precision: str, *, trains: bool) -> Cost:
    """Every group that the scheduler has fused, and every kernel called from it, is a launch."""
    from torch._inductor import compile_fx, config, metrics

    torch.compiler.reset()
    metrics.reset()
    log = compile_fx.inductor_metrics_log  # counts only where it is heard
    level, log.propagate = log.level, False
    log.setLevel(logging.INFO)
    try:
        with config.patch(force_disable_caches=True, compile_threads=1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(torch.compile(copy.deepcopy(block)), shape, precision, trains=trains)
    finally:
        log.setLevel(level)
    sizes = [node.get_read_write_buffers_sizes() for node, _ in metrics.node_runtimes]
    return Cost(launches=sum(size > 0 for size in sizes), bytes=sum(sizes))
