"""What compiling saves of a training step: the blocks' kernels and bytes, eager and as torch's Inductor fuses them.

Inductor's scheduler is asked what it would fuse for Triton, a GPU's compiler; no kernel is written or compiled, so it
takes neither a GPU nor a C++ compiler. What runs meanwhile is the uncompiled graph.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

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
    """All blocks of a step, student and teacher: eager, and compiled."""
    arch, v = nets.parse(recipe.net.arch), recipe.views
    method = methods.get(recipe.method.name)
    patches = recipe.method.name == "ibot"  # needs the global views' patches after the last block, too
    eager, compiled = Cost(), Cost()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for views, size, trains, whole in (
        (v.num_global, v.global_size, True, patches),
        (v.num_local, v.local_size, True, False),
        (v.num_global, v.global_size, False, patches),
    ):
        if not views:
            continue
        drop_path = recipe.net.drop_path if trains else 0.0
        block = _fake(method.network(arch, recipe.method, drop_path=drop_path).backbone.blocks[-1], mode)
        shape = (views * batch, (size // arch.patch_size) ** 2 + 1, arch.embed_dim)
        x = mode.from_tensor(torch.empty(shape).requires_grad_(trains))
        for class_only, times in ((False, arch.depth - 1), (not whole, 1)):
            one = functools.partial(run, x=x, precision=recipe.run.precision, class_only=class_only)
            eager += count_eager(block, one) * times
            compiled += count_compiled(block, one) * times
    return eager, compiled


def _fake(block: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The block with fake tensors as parameters."""
    for part in block.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(mode.from_tensor(parameter.detach())))
    return block


def run(block: nn.Module, *, x: torch.Tensor, precision: str, class_only: bool) -> None:
    """Forward, and backward where x wants a gradient. Every block but the first also sends one on."""
    x.grad = None
    block.zero_grad(set_to_none=True)
    with card.autocast(x.device, precision), torch.set_grad_enabled(x.requires_grad):
        y = block(x, class_only=class_only)
    if x.requires_grad:
        y.backward(torch.zeros_like(y))


def count_eager(block: nn.Module, one: Callable[[nn.Module], None]) -> Cost:
    """Every operator is a launch."""
    with Count() as count:
        one(block)
    return Cost(launches=count.launches, bytes=count.bytes)


def count_compiled(block: nn.Module, one: Callable[[nn.Module], None]) -> Cost:
    """Every group that the scheduler has fused, and every kernel called from it, is a launch."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor import config
    from torch._inductor.decomposition import select_decomp_table

    found: list[int] = []
    schedule = functools.partial(_scheduled, found=found)
    backend = aot_autograd(
        fw_compiler=schedule,
        bw_compiler=schedule,
        decompositions=select_decomp_table,
        partition_fn=min_cut_rematerialization_partition,
    )
    torch.compiler.reset()
    with config.patch(cpu_backend="triton", force_disable_caches=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one(torch.compile(block, backend=backend))  # type: ignore[arg-type]
    return Cost(launches=sum(size > 0 for size in found), bytes=sum(found))


def _scheduled(graph: torch.fx.GraphModule, inputs: list[Any], *, found: list[int]) -> Callable[..., Any]:
    """A compiler that notes the bytes of each kernel that there would be, and leaves the graph as it is."""
    from torch._dynamo.utils import detect_fake_mode
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.scheduler import Scheduler
    from torch._inductor.virtualized import V

    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]  # of the mode of the graph
    lowering = GraphLowering(graph, example_inputs=inputs)
    with DebugContext(), V.set_fake_mode(detect_fake_mode(inputs)), V.set_graph_handler(lowering):
        lowering.run(*inputs)
        lowering.init_wrapper_code()
        nodes = Scheduler(lowering.operations).nodes
        found.extend(node.get_read_write_buffers_sizes() for node in nodes)
    boxed: Callable[..., Any] = make_boxed_func(graph.forward)
    return boxed
