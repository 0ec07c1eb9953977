"""A linear probe's training step: 45 heads at once against one head, and against 45 heads one after the other.

A whole step is what one batch of training costs once its images are decoded: the frozen ViT-S/16's forward pass at
224 px, then loss, gradients and momentum SGD of the heads, 1,000 classes. Real runs decode on top, the same for both,
and have larger batches (256), over which the heads' cost of a step, reading and writing their weights, is spread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from evaltk import build_backbone, load_checkpoint, probe
from evaltk.probe import Heads
from evaltk.types import Recipe

NET, BATCH, CLASSES, REPEATS = "random:vit_small_patch16_224", 8, 1000, 4
LRS = [digit * 10.0**power for power in range(-4, 1) for digit in range(1, 10)]
CLS, GRID = (Recipe(),), tuple(Recipe(tokens=t, last=n) for n in (1, 4) for t in ("cls", "cls+mean"))  # type: ignore[arg-type]


def begin(recipes: tuple[Recipe, ...], lrs: list[float], widths: list[int]) -> tuple[list[Heads], torch.Tensor]:
    """Heads for each recipe, and their rates."""
    draw = torch.Generator().manual_seed(0)
    return [probe.begin(len(lrs), CLASSES, w, generator=draw) for w in widths], torch.tensor(lrs)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(recipes: tuple[Recipe, ...], images: torch.Tensor, y: torch.Tensor) -> tuple[float, float, float]:
    """Least seconds of (a step with one head a feature, one with 45, the heads' part of the latter)."""
    backbone = build_backbone(load_checkpoint(NET))
    widths = [x.shape[1] for x in backbone.features(images[:2], recipes)]
    sets = {len(lrs): begin(recipes, lrs, widths) for lrs in ([0.1], LRS)}
    times: dict[str, list[float]] = {"one": [], "all": [], "heads": []}
    for _ in range(REPEATS):  # in turns, so that a busy moment of the machine does not fall on one of them alone
        for name, count in (("one", 1), ("all", len(LRS))):
            heads, rates = sets[count]

            def step(heads: list[Heads] = heads, rates: torch.Tensor = rates) -> None:
                for one, x in zip(heads, backbone.features(images, recipes), strict=True):
                    probe.step(one, x, y, rates)

            times[name].append(seconds(step))
        made = backbone.features(images, recipes)
        heads, rates = sets[len(LRS)]
        times["heads"].append(
            seconds(lambda: [probe.step(h, x, y, rates) for h, x in zip(heads, made, strict=True)])  # noqa: B023
        )
    return min(times["one"]), min(times["all"]), min(times["heads"])


def plain(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
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
    draw = torch.Generator().manual_seed(1)
    images, y = torch.randn(BATCH, 3, 224, 224, generator=draw), torch.randint(CLASSES, (BATCH,), generator=draw)
    for title, recipes in (("the class token", CLS), ("each of {1, 4} blocks x {none, mean}", GRID)):
        one, every, heads = compare(recipes, images, y)
        print(f"   {title}: whole step of {BATCH} images {one:.2f} s with one head, {every:.2f} s with {len(LRS)}")
        print(f"   {every / one:.2f} times one head (wanted: at most 1.5); the {len(LRS)} heads alone {heads:.3f} s")
    x = torch.randn(256, 384, generator=draw)
    y = torch.randint(CLASSES, (256,), generator=draw)
    (batched,), rates = begin(CLS, LRS, [384])
    apart = plain(x, y)
    times = [(seconds(apart), seconds(lambda: probe.step(batched, x, y, rates))) for _ in range(REPEATS)]
    slow, fast = (min(t) for t in zip(*times, strict=True))
    print(
        f"   heads, 256 images: {slow:.2f} s one after the other, {fast:.2f} s at once, {slow / fast:.2f} times faster"
    )
