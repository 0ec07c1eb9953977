"""Small inputs of every kind, and the commands that run on them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaltk import cli
from evaltk.data import frames

GOLDEN = Path(__file__).parents[1] / "golden"
NET = "random:vit_patch4_dim32_depth2_heads2_img16"
DINO = [str(GOLDEN / "dino_p16_full_checkpoint.pth"), "--num-heads", "3"]
TINY = [
    "net.arch=vit_patch4_dim32_depth2_heads2_img16",
    "method.num_prototypes=64",
    "method.hidden=32",
    "method.bottleneck=16",
    "views.num_local=2",
    "views.where=device",
    "optim.batch=24",
    "optim.epochs=1",
    "optim.warmup_epochs=0",
    "optim.freeze_last_layer=0",
    "run.precision=fp32",
    "run.workers=0",
    "run.knn=60",
    "run.log_every=100",
    "run.monitor_every=100",
]
METHODS = {
    "dino": ["method.scoring=linear", "method.centering=logit"],
    "dino_vmf": [],
    "ibot_vmf": ["method.name=ibot"],
    "msn": ["method.name=msn", "method.scoring=cosine"],
}


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    numbers = np.random.default_rng(seed)
    return Image.fromarray(numbers.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def digits_folder(root: Path, count: int) -> Path:
    """The first digits as a folder of images."""
    from evaltk import datasets

    train = datasets.load("digits").train
    assert train.pixels is not None
    (root / "one").mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.asarray(train.pixels[i])).save(root / "one" / f"{i:03d}.png")
    return root


def video(root: Path) -> Path:
    """A disc that drifts over noise, in DAVIS's layout."""
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("disc\n")
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "480p" / "disc").mkdir(parents=True)
    y, x = np.ogrid[:70, :130]
    for t in range(4):
        ids = (np.hypot(y - 30, x - 30 - 3 * t) < 20).astype(np.uint8)
        picture = np.asarray(noise((130, 70), 0)).copy()
        picture[ids == 1] = (250, 20, 20)
        Image.fromarray(picture).save(root / "JPEGImages" / "480p" / "disc" / f"{t:05d}.jpg", quality=95)
        frames.write_ids(root / "Annotations" / "480p" / "disc" / f"{t:05d}.png", ids)
    return root


def gallery(root: Path) -> Path:
    """Eight images and two queries in revisitop's layout."""
    (root / "jpg").mkdir(parents=True)
    names, queries = [f"all_souls_{i:06d}" for i in range(8)], ["query_000000", "query_000001"]
    for number, name in enumerate((*names, *queries)):
        noise((80, 66), number).save(root / "jpg" / f"{name}.jpg", quality=95)
    truth = [{"bbx": (4.0, 6.5, 70.0, 60.0), "easy": [q], "hard": [q + 3], "junk": [q + 5]} for q in range(2)]
    with (root / "gnd_roxford5k.pkl").open("wb") as stream:
        pickle.dump({"imlist": names, "qimlist": queries, "gnd": truth}, stream, protocol=2)
    return root


def ran(words: list[str], out: Path, device: str) -> dict[str, Any]:
    """The scores that `evaltk run` writes: {file: scores}, and every array of predictions as bytes."""
    folder = out / device
    command = ["run", *words, "--device", device, "--out", str(folder / "runs"), "--cache", str(folder / "cache")]
    assert cli.main([*command, "--workers", "0"]) == 0
    found: dict[str, Any] = {}
    for path in sorted((folder / "runs").rglob("*.json")):
        name = str(path.relative_to(folder))
        found[name] = json.loads(path.read_text())["scores"]
    for path in sorted((folder / "runs").rglob("*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.stem} {k}": (arrays[k].shape, arrays[k].tobytes()) for k in arrays.files}
    assert found
    return found
