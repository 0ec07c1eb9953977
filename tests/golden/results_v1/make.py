"""Make the results of this folder: run with the code of the commit that README.md names.

PYTHONPATH=CHECKOUT python make.py FOLDER
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaltk import load_checkpoint
from evaltk.bench import ImageOptions
from evaltk.running import runner
from protocols import fewshot, finetune, knn, linear, precision, prototypes, retrieval, transfer, vos

DRAW = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (32, 32)) -> None:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DRAW.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)


def classified(root: Path) -> None:
    """ImageNet with one image a class, and CIFAR-10 as class folders."""
    for number in range(1000):
        wnid = f"n{9_000_000 + 7 * number:08d}"
        for split in ("train", "val"):
            picture(root / "imagenet" / split / wnid / f"{wnid}_1.JPEG")
    for name in ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]:
        for split, count in (("train", 6), ("test", 3)):
            for i in range(count):
                picture(root / "cifar10" / split / name / f"{i}.jpg")


def gallery(root: Path, archive: str | None) -> None:
    """A retrieval benchmark of 14 images and 3 queries."""
    imlist, qimlist = [f"all_souls_{i:06d}" for i in range(14)], [f"query_{i:06d}" for i in range(3)]
    for image in (*imlist, *qimlist):
        picture(root / "jpg" / f"{image}.jpg", (80, 66))
    boxes = [(4.0, 6.5, 70.0, 60.0), (10.0, 10.0, 60.2, 58.0), (0.0, 0.0, 50.0, 64.0)]
    gnd = [
        {"bbx": boxes[k], "easy": [k, k + 5] if k else [], "hard": [k + 3], "junk": [k + 8, k + 9]} for k in range(3)
    ]
    with (root / f"gnd_{root.name}.pkl").open("wb") as stream:
        pickle.dump({"imlist": imlist, "qimlist": qimlist, "gnd": gnd}, stream, protocol=2)
    if archive:
        (root / archive).touch()


def davis(root: Path) -> None:
    """One sequence of four frames."""
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("dog\n")
    masks = root / "Annotations" / "480p" / "dog"
    masks.mkdir(parents=True)
    for t in range(4):
        picture(root / "JPEGImages" / "480p" / "dog" / f"{t:05d}.jpg", (96, 80))
        mask = np.zeros((80, 96), np.uint8)
        mask[20:50, 10 + 4 * t : 50 + 4 * t] = 1
        Image.fromarray(mask).save(masks / f"{t:05d}.png")


def nets(root: Path) -> tuple[str, str]:
    """(a full training checkpoint in DINO's layout, the same net as a flat state dict), untrained."""
    net = load_checkpoint("random:vit_small_patch16_32")
    g = torch.Generator().manual_seed(0)
    head = {
        "mlp.weight": torch.randn(16, 384, generator=g),
        "mlp.bias": torch.randn(16, generator=g),
        "last_layer.weight_v": torch.randn(40, 16, generator=g),
        "last_layer.weight_g": torch.linspace(0.5, 1.5, 40)[:, None].clone(),
    }
    teacher = {f"backbone.{k}": t for k, t in net.weights.items()} | {f"head.{k}": t for k, t in head.items()}
    student = {k: t.clone() for k, t in teacher.items()}
    torch.save({"teacher": teacher, "student": student, "epoch": 3}, root / "full.pth")
    torch.save(dict(net.weights), root / "flat.pth")
    return str(root / "full.pth"), str(root / "flat.pth")


def main(root: Path) -> None:
    """Make data and nets, run every protocol, and list the names of the cache's entries."""
    classified(root)
    gallery(root / "roxford5k", None)
    gallery(root / "rparis6k", "paris_1.tgz")
    davis(root / "davis2017")
    full, flat = nets(root)

    def run(checkpoints: tuple[str, ...], *data: str, given: dict[str, Any] | None = None, **settings: Any) -> None:
        plan = runner.Plan(
            checkpoints=checkpoints,
            protocols=settings,
            data=tuple(name if name == "digits" else f"{name}={root / name}" for name in data),
            out=root / "runs",
            cache=root / "cache",
            workers=0,
            **(given or {}),
        )
        runner.run(plan, report=lambda job, result, skipped: print(job.path, flush=True))

    fast = linear.Settings(fast=True, lr=(0.01, 0.1), epochs=2)
    run(("pixels:8",), "digits", knn=knn.Settings(k=(1, 5), choose=20), linear=fast)
    run((full, flat), "imagenet", knn=knn.Settings(k=(10, 20, 100, 200), choose=0))
    run(
        (full,),
        "imagenet",
        linear=linear.Settings(lr=(0.01, 0.1), epochs=1, holdout=0.0),
        fewshot=fewshot.Settings(shots=(1,), percent=0, splits=2),
        prototypes=prototypes.Settings(permutations=0, thresholds=(0.5, 0.9), gallery=0),
        precision=precision.Settings(k=(10, 20), permutations=99),
    )
    tuning = {"lr": (1e-4,), "epochs": 1, "batch": 12, "group": 4, "warmup_epochs": 0, "augment": "none", "repeats": 1}
    run(
        (full,),
        "cifar10",
        transfer=transfer.Settings(strengths=3),
        finetune=finetune.Settings(**tuning, holdout=0.2),  # type: ignore[arg-type]
    )
    run((full,), "roxford5k", "rparis6k", retrieval=retrieval.Settings())
    run((full,), "davis2017", vos=vos.Settings(size=64))
    other = {"images": ImageOptions(resize=40, interpolation="bilinear"), "precision": "bf16"}
    run((full,), "imagenet", given=other, knn=knn.Settings(k=(10, 20), choose=0))
    entries = sorted(path.parent.name for path in (root / "cache").rglob("key.json"))
    (root / "cache.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
