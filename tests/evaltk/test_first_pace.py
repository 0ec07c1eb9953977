"""The rate shown before the first batch is done: tried on three images, and no feature moves by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaltk import progress
from evaltk.checkpoints.load import load_checkpoint
from evaltk.data import images, loading
from evaltk.data.transforms import Transform
from evaltk.features import first_pace
from evaltk.features.extraction import Extraction, extract
from evaltk.models.backbone import build_backbone
from evaltk.types import Recipe

LOOK = Transform(resize=18, crop=16, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
HOW = Extraction(batch_size=32, shard=48)


def test_three_images_tell_the_rate_and_nothing_else_changes(
    image_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = build_backbone(load_checkpoint("random:vit_patch4_dim32_depth2_heads2_img16"))
    split = images.from_folder("data", "train", image_tree({"train/a": 40, "train/b": 40}), ["a", "b"], get="")
    without = extract(net, split, LOOK, (Recipe(),), cache=tmp_path / "without", how=HOW)[Recipe()]
    monkeypatch.setattr(first_pace, "WORTH", 48)
    asked: list[float | None] = []
    real = progress.bar
    monkeypatch.setattr(progress, "bar", lambda *a, pace=None, **k: (asked.append(pace()), real(*a, **k))[1])
    with_ = extract(net, split, LOOK, (Recipe(),), cache=tmp_path / "with", how=HOW)[Recipe()]
    assert len(asked) == 1 and asked[0] is not None and 1 < asked[0] < 1e6
    assert np.array_equal(with_.x, without.x)


def test_few_images_and_unreadable_ones_are_not_tried_out(image_tree: Callable[..., Path]) -> None:
    net = build_backbone(load_checkpoint("random:vit_patch4_dim32_depth2_heads2_img16"))
    root = image_tree({"train/a": 40, "train/b": 40}, form="jpg")
    split = images.from_folder("data", "train", root, ["a", "b"], get="")
    load, views = loading.Views(split, (LOOK,)), {LOOK: (Recipe(),)}
    assert first_pace.images_a_second(net, load, views, range(first_pace.WORTH - 1), HOW) is None
    assert first_pace.images_a_second(net, load, views, range(80), dataclasses.replace(HOW, workers=2)) is not None
    (root / "train/a/001.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert first_pace.images_a_second(net, load, views, range(80), HOW) is None
