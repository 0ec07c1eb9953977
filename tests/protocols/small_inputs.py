"""A small net and small images for tests of protocols that run the real command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DEIT = str(Path(__file__).parents[1] / "golden" / "families" / "deit_checkpoint.pth")  # 24 wide, 16 px, --num-heads 3


def one_colour_per_class(root: Path, *, train: int, test: int, noise: int = 60) -> Path:
    """`root` with data/{train,test}/CLASS/N.png: six classes of noise, each of a colour of its own."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for c in range(6):
            folder = root / "data" / split / f"class {c}"
            folder.mkdir(parents=True)
            for i in range(count):
                bright = np.array([(c + 1) & 1, (c + 1) >> 1 & 1, (c + 1) >> 2]) * (255 - noise)
                pixels = rng.integers(0, noise, (18, 16, 3)) + bright
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root
