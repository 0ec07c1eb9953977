"""Inputs of the linear probe's tests."""

from __future__ import annotations

from pathlib import Path

from evaltk import build_backbone, datasets, load_checkpoint
from evaltk.bench import Bench, ImageOptions, Outcome
from evaltk.data import images
from evaltk.data.images import Dataset
from evaltk.features.extraction import Extraction
from evaltk.types import Result, Score

NET = "random:vit_patch4_dim32_depth5_heads2_img16"


def a_bench(cache: Path, net: str = NET, *, seed: int = 0, workers: int = 0) -> Bench:
    checkpoint = load_checkpoint(net)
    return Bench(
        checkpoint=checkpoint, backbone=build_backbone(checkpoint), device="cpu", seed=seed, cache=cache,
        images=ImageOptions(), extraction=Extraction(workers=workers, batch_size=32),
    )  # fmt: skip


def small_digits(train: int = 80, test: int = 40) -> Dataset:
    whole = datasets.load("digits")
    parts = [
        images.from_arrays("digits", s.name, s.pixels[:n], s.labels[:n], s.classes)
        for s, n in ((whole.train, train), (whole.test, test))
    ]
    return Dataset(name="digits", train=parts[0], test=parts[1])


def score(outcome: Outcome | Result, metric: str, **at: object) -> Score:
    (found,) = [s for s in outcome.scores if s.metric == metric and at.items() <= dict(s.at).items()]
    return found
