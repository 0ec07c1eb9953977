"""What a training step would cost on a GPU, counted without one: launches, bytes, operations, host synchronisations.

    python -m benchmarks.roofline dino_vmf_vits16 --batch 64 --where device --set net.drop_path=0.1 [--compiled]

It is a model, good for finding what dominates and for comparing versions, not a measurement. An eager step is counted,
where nothing is fused; --compiled adds what compiled blocks save (`_roofline_compiled`). Views are counted with the
copies to the device; the step on CPU tensors, since a backward pass on CUDA's asks for the driver. Not counted:
decoding of images, exchange between GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.layers import drop
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import _roofline_compiled
from benchmarks._roofline_count import Count
from evaltk.models import vit
from pretrain import card, loop, methods, nets
from pretrain import recipe as recipes
from pretrain.data import loader
from pretrain.recipe import Recipe

SHAPE = (375, 500)  # the usual size of an ImageNet photograph
SHOWN = 14


class Photographs:
    """As many images as asked for, all the same."""

    labels = None

    def __init__(self, count: int) -> None:
        self.count = count
        self.image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8))

    def __len__(self) -> int:
        return self.count

    def open(self, index: int) -> Image.Image:
        """The image."""
        return self.image

    def image_id(self, index: int) -> str:
        """Its name."""
        return str(index)


def host_batch(recipe: Recipe, batch: int) -> loader.HostBatch:
    """A batch as the loader gives it."""
    method, arch = methods.get(recipe.method.name), nets.parse(recipe.net.arch)
    dataset = loader.ViewDataset(
        Photographs(batch),  # type: ignore[arg-type]
        recipe.views,
        seed=0,
        masking=method.masks(recipe.method),
        patch_size=arch.patch_size,
    )
    return loader.collate([dataset[0, i] for i in range(batch)], recipe.views)


@contextlib.contextmanager
def as_on_a_card() -> Iterator[None]:
    """Inside, CPU tensors are treated as CUDA's are: fused AdamW, views in float16, timm's own stochastic depth."""
    before, forward = card.is_card, vit.DropPath.forward
    card.is_card = lambda device: True
    vit.DropPath.forward = drop.DropPath.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        card.is_card, vit.DropPath.forward = before, forward  # type: ignore[method-assign]


def fake(value: Any, mode: FakeTensorMode) -> Any:
    """The value with fake tensors in place of its own."""
    if isinstance(value, torch.Tensor):
        return mode.from_tensor(value)
    if isinstance(value, list | tuple):
        return type(value)(fake(v, mode) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: fake(getattr(value, name), mode) for name in names})
    return value


def count_views(recipe: Recipe, batch: int) -> Count:
    """What the views of a batch cost."""
    on_host, count = host_batch(recipe, batch), Count()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, as_on_a_card():
        inputs = fake(on_host, mode)
        with count:
            loader.to_device(inputs, recipe.views, copied_to(), mean=recipe.data.mean, std=recipe.data.std)
    return count


def copied_to() -> torch.device:
    """CUDA, which fake tensors have without a GPU, so that copies are counted; not in the oldest versions of torch."""
    try:
        torch.empty(1).to("cuda")
    except (RuntimeError, AssertionError):
        return torch.device("cpu")
    return torch.device("cuda")


def count_step(recipe: Recipe, batch: int) -> Count:
    """What a whole step costs, views included: the second one, since the first makes AdamW's state."""
    method, count = methods.get(recipe.method.name), Count()
    recipe = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, compile=False))
    rates = method.rates(recipe.optim, 1, total_steps=125_000, epoch_steps=1250)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with as_on_a_card():
        on_host = host_batch(recipe, batch)
        state = loop.init_state(recipe, method, nets.parse(recipe.net.arch), torch.device("cpu"))
        with mode:
            inputs = fake(on_host, mode)
            with Count():
                loop.train_step([inputs], state, method, recipe, rates, stop=False)
            with count:
                loop.train_step([inputs], state, method, recipe, rates, stop=False)
    return count


def told(count: Count, images: int, title: str, *, lines: int = SHOWN) -> dict[str, Any]:
    """Print a count. Returns: it as plain numbers."""
    device, host = sum(count.time.values()), count.launches * count.card.host
    flops = ", ".join(f"{v / images / 1e9:.1f} GFLOP an image in {k}" for k, v in count.flops.items()) or "no products"
    syncs = sum(count.syncs.values())
    gigabytes = count.bytes / images / 1e9
    print(f"== {title}: {count.launches} launches, {gigabytes:.3f} GB an image, {flops}, {syncs} host synchronisations")
    print(f"   {count.card.name}: device {1e3 * device:.1f} ms, host {1e3 * host:.1f} ms -> "
          f"at best {images / count.seconds:.0f} images/s")  # fmt: skip
    for at, seconds in count.time.most_common(lines):
        share = count.moved[at] / images / 1e9
        print(f"   {1e3 * seconds:7.2f} ms {count.operators[at]:5d} x {share:6.3f} GB an image  {at[0]}  {at[1]}")
    for where, number in count.syncs.most_common(lines):
        print(f"   {number:4d} synchronisations  {where}")
    for (name, dtype, where), operations in count.products.most_common():
        if dtype == "float32" and operations / images > 5e7:
            print(f"   float32 product: {operations / images / 1e9:.2f} GFLOP an image  {name}  {where}")
    return {
        "title": title,
        "launches": count.launches,
        "gigabytes_an_image": gigabytes,
        "gflop_an_image": {k: v / images / 1e9 for k, v in count.flops.items()},
        "synchronisations": dict(count.syncs),
        "device_ms": 1e3 * device,
        "host_ms": 1e3 * host,
        "images_per_second": images / count.seconds,
    }


def told_compiled(recipe: Recipe, step: Count, images: int) -> dict[str, Any]:
    """Print what compiled blocks save of a step. Returns: it as plain numbers."""
    with as_on_a_card():
        eager, compiled = _roofline_compiled.blocks(recipe, images)
    whole = _roofline_compiled.Cost(launches=step.launches, bytes=step.bytes)
    parts = {
        "step": whole,
        "blocks": eager,
        "blocks_compiled": compiled,
        "step_compiled": whole + eager * -1 + compiled,
    }
    numbers: dict[str, Any] = {"title": "compiled blocks"}
    for name, cost in parts.items():
        numbers[name] = {"launches": cost.launches, "gigabytes_an_image": cost.bytes / images / 1e9}
        print(f"== {name}: {cost.launches} launches, {cost.bytes / images / 1e9:.3f} GB an image")
    return numbers


def main(argv: list[str] | None = None) -> int:
    """Count one recipe's step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="dino_vmf_vits16", help="a bundled recipe or a .toml file")
    parser.add_argument("--batch", type=int, default=64, help="images a step on one GPU")
    parser.add_argument("--where", choices=("workers", "device"), default="device", help="where views are made")
    parser.add_argument("--set", nargs="*", default=[], help="recipe overrides, section.key=value")
    parser.add_argument("--compiled", action="store_true", help="also count the blocks as Inductor fuses them; minutes")
    parser.add_argument("--lines", type=int, default=SHOWN, help="how many lines to name")
    parser.add_argument("--json", help="write the numbers to this file too")
    a = parser.parse_args(argv)
    overrides = (*a.set, f"views.where={a.where}", f"optim.batch={a.batch}")
    recipe = recipes.load(a.recipe, overrides)
    torch.__future__.set_swap_module_params_on_conversion(False)  # a net of fake parameters cannot be swapped in
    found = {"views": count_views(recipe, a.batch), "step": count_step(recipe, a.batch)}
    titles = {"views": f"views by {a.where}", "step": f"step of {a.recipe}, batch {a.batch}, views by {a.where}"}
    numbers = [told(found[part], a.batch, titles[part], lines=a.lines) for part in titles]
    if a.compiled:
        numbers.append(told_compiled(recipe, found["step"], a.batch))
    if a.json:
        Path(a.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
