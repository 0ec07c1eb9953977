"""Images a second of training steps, with synthetic images and with JPEG files, beside a plain step."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import roofline
from benchmarks.gpu import _plain
from benchmarks.gpu._card import Clock, Limits
from pretrain import loop, methods, nets
from pretrain import recipe as recipes
from pretrain.data import loader
from pretrain.data.sources import FolderSource
from pretrain.recipe import Recipe

CASES = (
    ("S/16 dino_vmf", "dino_vmf_vits16", ()),
    ("S/16 dino", "dino_vits16", ()),
    ("S/16 dino, cosine", "dino_vits16", ("method.scoring=cosine",)),
    ("S/16 dino_vmf, not compiled", "dino_vmf_vits16", ("run.compile=false",)),
    ("S/16 ibot_vmf", "ibot_vmf_vits16", ()),
    ("S/16 msn", "msn_vits16", ()),
    ("B/16 dino_vmf", "dino_vmf_vitb16", ()),
    ("B/16 ibot_vmf", "ibot_vmf_vitb16", ()),
)
QUICK = ("net.arch=vit_patch16_dim32_depth2_heads2_img32", "views.global_size=32", "views.local_size=16",
         "views.num_local=2", "method.num_prototypes=64", "method.hidden=32", "method.bottleneck=16")  # fmt: skip


def recipe_of(name: str, more: tuple[str, ...], batch: int, clock: Clock) -> Recipe:
    """The recipe, with views made on the device."""
    quick = QUICK if clock.quick else ()
    compiled = () if clock.card else ("run.compile=false",)
    return recipes.load(name, (*more, *quick, *compiled, "views.where=device", f"optim.batch={batch}"))


class Steps:
    """Training steps on batches that come in a circle."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.method = recipe, methods.get(recipe.method.name)
        self.state = loop.init_state(recipe, self.method, nets.parse(recipe.net.arch), device)
        self.rates = self.method.rates(recipe.optim, 1, total_steps=125_000, epoch_steps=1250)

    def __call__(self, batch: loader.HostBatch) -> float:
        """One step's loss."""
        record = loop.train_step([batch], self.state, self.method, self.recipe, self.rates, stop=False)
        return float(record.loss)


def synthetic(name: str, more: tuple[str, ...], clock: Clock, limits: Limits) -> dict[str, Any]:
    """A case on images that are there already."""
    batch = 2 if clock.quick else 64
    recipe = recipe_of(name, more, batch, clock)
    host = roofline.host_batch(recipe, batch)
    if clock.card:
        host = host.pin_memory()
    clock.forget_peak()
    steps = Steps(recipe, clock.device)
    seconds = clock.seconds(lambda: steps(host), least=4.0, warm=5)
    found = {"images_per_second": batch / seconds, "milliseconds": 1e3 * seconds, "peak_gigabytes": clock.peak()}
    if recipe.method.scoring == "vmf" and recipe.method.name == "dino":
        few = min(batch, 2)
        flops = roofline.count_step(recipe, few).flops["bfloat16"] / few
        found["share_of_bf16"] = flops * batch / seconds / limits.bf16
    return found


def plain(clock: Clock, *, vmf: bool) -> dict[str, Any]:
    """The plain step of ViT-S/16 on views that are there already."""
    batch = 1 if clock.quick else 64
    name, k = ("vit_tiny_patch16_224", 64) if clock.quick else ("vit_small_patch16_224", 65_536)
    views = [torch.randn(batch, 3, s, s, device=clock.device) for s in [224] * 2 + [96] * (0 if clock.quick else 10)]
    clock.forget_peak()
    training = _plain.Training(name, k, clock.device, vmf=vmf)
    seconds = clock.seconds(lambda: training.step(views), least=3.0)
    return {"images_per_second": batch / seconds, "milliseconds": 1e3 * seconds, "peak_gigabytes": clock.peak()}


def write_photographs(folder: Path, count: int) -> None:
    """JPEG files of a photograph's size."""
    numbers = np.random.default_rng(0)
    for i in range(count):
        coarse = numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:05d}.jpg", quality=90)


def from_disk(clock: Clock, decode: str) -> dict[str, Any]:
    """ViT-S/16 DINO-vMF on JPEG files: decoded by workers or on the device, views made there."""
    batch, count = (2, 8) if clock.quick else (64, 1024)
    recipe = recipe_of("dino_vmf_vits16", (f"views.decode={decode}",), batch, clock)
    with tempfile.TemporaryDirectory() as folder:
        arch = nets.parse(recipe.net.arch)
        write_photographs(Path(folder), count)
        source = FolderSource(Path(folder))
        dataset = loader.ViewDataset(source, recipe.views, seed=0, masking=None, patch_size=arch.patch_size)
        workers = 0 if clock.quick else min(16, os.cpu_count() or 1)
        order = [[(e, (b * batch + i) % count) for i in range(batch)] for e in range(40) for b in range(count // batch)]
        batches: Iterator[loader.HostBatch] = iter(loader.loader(dataset, order, workers=workers, world=1))
        steps = Steps(recipe, clock.device)
        seconds = clock.seconds(lambda: steps(next(batches)), least=6.0, warm=8)
        device, data = clock.device, recipe.data
        loading = clock.seconds(
            lambda: loader.to_device(next(batches), recipe.views, device, mean=data.mean, std=data.std), least=3.0
        )
    return {
        "images_per_second": batch / seconds,
        "views_alone_images_per_second": batch / loading,
        "workers": workers,
    }


def cases(clock: Clock, limits: Limits) -> Iterator[tuple[str, Any]]:
    """(name, what measures it), the most wanted first."""
    yield "train S/16 plain step, vMF", lambda: plain(clock, vmf=True)
    for title, name, more in CASES:
        yield f"train {title}", lambda name=name, more=more: _cleaned(lambda: synthetic(name, more, clock, limits))
    yield "train S/16 dino_vmf from JPEG files", lambda: from_disk(clock, "workers")
    yield "train S/16 dino_vmf from JPEG files decoded on the device", lambda: from_disk(clock, "device")
    yield "train S/16 plain step, no vMF", lambda: plain(clock, vmf=False)


def _cleaned(work: Any) -> Any:
    try:
        return work()
    finally:
        gc.collect()
