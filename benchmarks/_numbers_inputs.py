"""What `benchmarks.numbers` measures on: small trees of images, a video and a gallery, the same bytes everywhere.

Pixels come from numpy and are stored without loss, so that no version of a JPEG coder has a say in them.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
CLASSES = ("ash", "birch", "cedar", "elm")
COWS = "cows"


def picture(seed: int, size: tuple[int, int], tint: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """Blocks of 8 x 8 pixels in random colours under finer noise, moved towards a tint; size is (width, height)."""
    rng = np.random.default_rng(seed)
    width, height = size
    coarse = rng.integers(0, 160, (-(-height // 8), -(-width // 8), 3))
    blocks = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    pixels = blocks + rng.integers(0, 48, (height, width, 3)) + np.asarray(tint)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def image_folder(root: Path) -> Path:
    """Four classes of faint tints: 12 images each to learn from, 8 to report on."""
    for split, count, first in (("train", 12, 0), ("test", 8, 1000)):
        for number, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            tint = (24 * (number & 1), 24 * (number >> 1), 6 * number)
            for i in range(count):
                picture(first + 100 * number + i, (48, 40), tint).save(folder / f"{i:03d}.png")
    return root


def gallery(root: Path, name: str, first: int = 0, count: int = 14, queries: int = 3) -> Path:
    """A retrieval benchmark in the official layout: gnd_NAME.pkl and jpg/."""
    (root / "jpg").mkdir(parents=True)
    imlist, qimlist = [f"all_souls_{i:06d}" for i in range(count)], [f"query_{i:06d}" for i in range(queries)]
    for number, image in enumerate((*imlist, *qimlist)):
        size = (80 + 9 * (number % 4), 66 + 7 * (number % 3))
        picture(first + number, size).save(root / "jpg" / f"{image}.jpg", format="PNG")
    gnd = [
        {"bbx": (4.0, 6.5, 70.0, 60.0), "easy": [q, q + 5] if q else [], "hard": [q + 3], "junk": [q + 8, q + 9]}
        for q in range(queries)
    ]
    with (root / f"gnd_{name}.pkl").open("wb") as stream:
        pickle.dump({"imlist": imlist, "qimlist": qimlist, "gnd": gnd}, stream, protocol=2)
    return root


def videos(root: Path) -> Path:
    """DAVIS's layout: a video of two drifting discs over noise, and the four frames of cows of the tests."""
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text(f"discs\n{COWS}\n")
    ground = np.asarray(picture(7, (130, 70)))
    y, x = np.ogrid[:70, :130]
    for t in range(6):
        ids = np.zeros((70, 130), dtype=np.uint8)
        ids[np.hypot(y - 30, x - 30 - 3 * t) < 20] = 1
        ids[np.hypot(y - 40, x - 100 + 2 * t) < 18] = 3
        pixels = ground.copy()
        pixels[ids == 1], pixels[ids == 3] = (250, 20, 20), (20, 20, 250)
        _frame(root, "discs", t, Image.fromarray(pixels), ids)
    for t, path in enumerate(sorted((GOLDEN / "davis_cows" / "frames").glob("*.jpg"))):
        with Image.open(path) as image, Image.open(GOLDEN / "davis_cows" / "masks" / f"{path.stem}.png") as mask:
            _frame(root, COWS, t, image.convert("RGB"), np.asarray(mask))
    return root


def _frame(root: Path, name: str, t: int, image: Image.Image, ids: np.ndarray) -> None:
    frames, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
    for folder in (frames, masks):
        folder.mkdir(parents=True, exist_ok=True)
    image.save(frames / f"{t:05d}.jpg", format="PNG")
    mask = Image.frombytes("P", ids.shape[::-1], np.ascontiguousarray(ids).tobytes())
    mask.putpalette([value for i in range(256) for value in (i, i, i)])
    mask.save(masks / f"{t:05d}.png")
