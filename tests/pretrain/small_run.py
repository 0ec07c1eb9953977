"""A training of seconds: noise images in two class folders, and a recipe for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaltk.progress import log
from pretrain import loop
from pretrain import recipe as recipes
from pretrain.methods import dino
from pretrain.watching import Watching

SETS = [
    "net.arch=vit_patch8_dim32_depth1_heads2_img16",
    "net.drop_path=0.0",
    "method.num_prototypes=16",
    "method.hidden=16",
    "method.bottleneck=8",
    "method.teacher_temp_warmup=0",
    "views.global_size=16",
    "views.local_size=8",
    "views.num_local=1",
    "optim.batch=4",
    "optim.epochs=3",
    "optim.warmup_epochs=0",
    "run.workers=0",
    "run.knn=0",
    "run.log_every=1",
    "run.keep_every=1000",
    "run.save_minutes=1000",
    "run.monitor_every=100",
    "run.precision=fp32",
]


def photos(folder: Path, each: int = 6) -> Path:
    """Two classes of noise images."""
    rng = np.random.default_rng(0)
    for i in range(2 * each):
        path = folder / ("a" if i < each else "b") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)).save(path)
    return folder


def train(folder: Path, out: Path, *sets: str, recipe: str = "cifar10_dino", **watching: Any) -> int:
    """Train on a folder; `caplog` hears it whatever commands ran before."""
    log.propagate = True
    log.setLevel(logging.INFO)
    made = recipes.load(recipe, [*SETS, f"data.source=folder={folder}", *sets])
    return loop.run(made, out=out, device="cpu", watching=Watching(**watching))


def lines(out: Path) -> list[dict[str, Any]]:
    """The log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def tensors(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint."""
    found: dict[str, torch.Tensor] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}.{key}", inner)

    walk("", torch.load(out / "checkpoint.pth", weights_only=True))
    return found


def same(one: Path, other: Path) -> bool:
    """Whether two runs' last checkpoints are equal to the bit."""
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def spoil(monkeypatch: Any, when: Callable[[Any], bool], how: Callable[[Any, Any], Any]) -> None:
    """Let `how(output, state)` change the loss's output in steps of which `when(state)` is true."""
    real = dino.Dino.loss

    def loss(self: Any, batch: Any, state: Any) -> Any:
        output = real(self, batch, state)
        return how(output, state) if when(state) else output

    monkeypatch.setattr(dino.Dino, "loss", loss)
