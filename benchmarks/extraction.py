"""Features of JPEG files against the bare forward pass of the same net on the same cores."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaltk import build_backbone, load_checkpoint
from evaltk.data import images, transforms
from evaltk.features.extraction import auto_batch, extract
from evaltk.models.backbone import Backbone
from evaltk.types import Recipe

NUM_IMAGES, SIZE = 2_000, (500, 375)  # the usual size of an ImageNet photograph
NET = "random:vit_small_patch16_224"


def main() -> None:
    """Print the share of the bare forward rate that extraction reaches."""
    checkpoint = load_checkpoint(NET)
    backbone = build_backbone(checkpoint)
    transform = transforms.view("eval", 224, checkpoint.mean, checkpoint.std)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _photographs(root / "train" / "one")
        split = images.from_folder("photographs", "train", root, ["one"], get="")
        before = _forward_rate(backbone)
        started = time.perf_counter()
        extract(backbone, split, transform, [Recipe()], cache=root / "cache")
        rate = len(split) / (time.perf_counter() - started)
        after = _forward_rate(backbone)
    bare = (before + after) / 2
    print(f"   {rate:.1f} images/s from JPEG to cache; bare forward {before:.1f} before and {after:.1f} after")
    print(f"   {100 * rate / bare:.0f} % of the bare forward rate (wanted: at least 85)")


def _forward_rate(backbone: Backbone) -> float:
    x = torch.randn(auto_batch(backbone), 3, 224, 224)
    backbone.features(x, (Recipe(),))
    started, done = time.perf_counter(), 0
    while done < 200:
        backbone.features(x, (Recipe(),))
        done += len(x)
    return done / (time.perf_counter() - started)


def _photographs(folder: Path) -> None:
    """Smooth random images with some grain, so that they compress like photographs (about 60 kB each)."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        smooth = Image.fromarray(numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        grain = numbers.normal(0, 6, (SIZE[1], SIZE[0], 1))
        noisy = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:04d}.jpg", quality=90)
