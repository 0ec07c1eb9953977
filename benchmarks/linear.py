"""A linear probe's training step: 45 heads at once against one head, and against 45 heads one after the other.

A step is what a batch of 256 costs once its images are decoded: the frozen ViT-S/16's forward pass at 224 px, then
loss, gradients and momentum SGD of the heads, 1,000 classes. The net takes the batch 8 images at a time, 32 times; one
of those is measured. Decoding comes on top of a real run, for one head as for 45.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from evaltk import build_backbone, load_checkpoint
from evaltk.types import Recipe
from protocols.linear import heads as probe
from protocols.linear.heads import Heads

NET, BATCH, CHUNK, CLASSES, REPEATS = "random:vit_small_patch16_224", 256, 8, 1000, 3
LRS = [digit * 10.0**power for power in range(-4, 1) for digit in range(1, 10)]
FEATURES = {
    "the class token": (Recipe(),),
    "Lin.[C] and Lin.[D]": (Recipe(), Recipe(last=4)),
    "{1, 4} blocks x {none, mean}": (
        Recipe(), Recipe(tokens="cls+mean"), Recipe(last=4), Recipe(tokens="cls+mean", last=4),
    ),
}  # fmt: skip


def seconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """The minimum wall time of several runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def heads_of(widths: list[int], count: int) -> list[Heads]:
    """Training steps of several heads per feature."""
    draw = torch.Generator().manual_seed(0)
    return [probe.begin(count, CLASSES, width, generator=draw) for width in widths]


def step_of(heads: list[Heads], x: list[torch.Tensor], y: torch.Tensor, lrs: list[float]) -> Callable[[], object]:
    """One step of all heads."""
    rates = torch.tensor(lrs)
    return lambda: [probe.step(one, part, y, rates) for one, part in zip(heads, x, strict=True)]


def plain(x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """The usual way: a layer, a loss and an optimizer for each learning rate."""
    layers = [torch.nn.Linear(x.shape[1], CLASSES) for _ in LRS]
    optimizers = [torch.optim.SGD(one.parameters(), lr, momentum=0.9) for one, lr in zip(layers, LRS, strict=True)]

    def step() -> None:
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(layer(x), y).backward()
            optimizer.step()

    return step


def main() -> None:
    """Print the ratios."""
    backbone = build_backbone(load_checkpoint(NET))
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(CHUNK, 3, 224, 224, generator=draw)
    y = torch.randint(CLASSES, (BATCH,), generator=draw)
    for title, recipes in FEATURES.items():
        widths = [x.shape[1] for x in backbone.features(images, recipes)]
        x = [torch.randn(BATCH, width, generator=draw) for width in widths]
        every = seconds(step_of(heads_of(widths, len(LRS)), x, y, LRS), 2)
        forward = BATCH // CHUNK * seconds(lambda recipes=recipes: backbone.features(images, recipes))  # type: ignore[misc]
        one = seconds(step_of(heads_of(widths, 1), x, y, LRS[:1]))
        print(f"   {title}: forward {forward:.1f} s, 1 head per feature {one:.3f} s, {len(LRS)} heads {every:.2f} s")
        print(f"   {(forward + every) / (forward + one):.2f} times the step with one head (wanted: at most 1.5)")
        if len(recipes) == 1:
            slow = seconds(plain(x[0], y), 2)
            print(f"   {len(LRS)} heads one after the other {slow:.2f} s, {slow / every:.2f} times those at once")
