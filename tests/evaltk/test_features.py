"""Features: equal to a plain loop, kept by content, made once, resumed to the bit; and everything that can go wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaltk import build_backbone, load_checkpoint
from evaltk.data import images, loading
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, EvaltkError, SettingsError, StorageError
from evaltk.features.extraction import Extraction, auto_batch, extract, key_of
from evaltk.features.shards import Entry
from evaltk.models.backbone import Backbone
from evaltk.types import Recipe

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
CLS, MEAN, TWO = Recipe(), Recipe(tokens="mean"), Recipe(last=2, norm=False)
Build = Callable[..., Path]


def test_equals_a_plain_loop(backbone: Backbone, split: Split, transform: Transform, tmp_path: Path) -> None:
    found = extract(backbone, split, transform, (CLS, MEAN, TWO), cache=tmp_path)
    for i in range(len(split)):
        x = transform.normalise(torch.from_numpy(transform.pixels(split.open(i))[None].copy()))
        normed, raw = backbone.tokens(x, last=2), backbone.tokens(x, last=2, norm=False)
        expected = {CLS: normed[1].cls, MEAN: normed[1].patches.mean(1), TWO: torch.cat([r.cls for r in raw], 1)}
        for recipe, value in expected.items():
            np.testing.assert_allclose(found[recipe].x[i], value[0].numpy(), rtol=1e-4, atol=1e-5)
    assert found[TWO].x.shape == (50, 64) and found[CLS].x.dtype == np.float32
    assert found[CLS].y.tolist() == split.labels.tolist() and found[CLS].ids[3] == "3" and not found[CLS].skipped
    with pytest.raises(ValueError, match="read-only"):
        found[CLS].x[0, 0] = 1.0


def test_a_second_call_does_no_work(
    backbone: Backbone, split: Split, transform: Transform, tmp_path: Path, forwards: list[int]
) -> None:
    first = extract(backbone, split, transform, (CLS,), cache=tmp_path)[CLS]
    assert sum(forwards) == 50
    again = extract(build_backbone(load_checkpoint(NET)), split, transform, (CLS,), cache=tmp_path)[CLS]
    assert sum(forwards) == 50 and np.array_equal(first.x, again.x)


def test_one_pass_serves_all_recipes(
    backbone: Backbone, split: Split, transform: Transform, tmp_path: Path, forwards: list[int]
) -> None:
    together = extract(backbone, split, transform, (CLS, MEAN, TWO), cache=tmp_path / "a")
    assert sum(forwards) == 50
    for recipe in (TWO, CLS, MEAN):
        alone = extract(backbone, split, transform, (recipe,), cache=tmp_path / "b")[recipe]
        assert np.array_equal(alone.x, together[recipe].x), recipe
    assert sum(forwards) == 200
    extract(backbone, split, transform, (CLS, Recipe(tokens="cls+mean")), cache=tmp_path / "a")
    assert sum(forwards) == 250  # what is missing alone


def test_the_key_changes_with_all_that_changes_features(
    backbone: Backbone, split: Split, transform: Transform, folder_split: Callable[[], Split]
) -> None:
    base = key_of(backbone, split, transform, CLS)
    changed = [
        key_of(build_backbone(load_checkpoint(f"{NET}@1")), split, transform, CLS),
        key_of(build_backbone(load_checkpoint(NET), precision="bf16"), split, transform, CLS),
        key_of(build_backbone(load_checkpoint(NET), position="timm"), split, transform, CLS),
        key_of(backbone, split, dataclasses.replace(transform, interpolation="bilinear"), CLS),
        key_of(backbone, split, dataclasses.replace(transform, mean=(0.5, 0.4, 0.30000001)), CLS),
        key_of(backbone, split, transform, MEAN),
        key_of(backbone, split, transform, dataclasses.replace(CLS, norm=False)),
        key_of(backbone, split, transform, dataclasses.replace(CLS, last=2)),
        key_of(backbone, dataclasses.replace(split, name="other"), transform, CLS),
        key_of(backbone, dataclasses.replace(split, stamp="1"), transform, CLS),
        key_of(backbone, images.from_arrays("d", "some", split.pixels[:49], split.labels[:49], "ab"), transform, CLS),
        dataclasses.replace(base, version=base.version + 1),
    ]
    other_labels = images.from_arrays("digits", "some", split.pixels, split.labels[::-1], split.classes)
    changed.append(key_of(backbone, other_labels, transform, CLS))
    assert len({key.digest() for key in [base, *changed]}) == len(changed) + 1
    assert key_of(build_backbone(load_checkpoint(NET)), split, transform, CLS) == base
    before = folder_split()
    os.utime(before.root / before.files[0], (1, 1))
    assert key_of(backbone, before, transform, CLS) != key_of(backbone, folder_split(), transform, CLS)


def test_a_weight_that_changes_is_another_key(split: Split, transform: Transform) -> None:
    checkpoint = load_checkpoint(NET)
    from evaltk.checkpoints.load import weights_digest

    weights = dict(checkpoint.weights)
    weights["norm.bias"] = weights["norm.bias"].clone()
    weights["norm.bias"][5] += 1e-7
    other = dataclasses.replace(checkpoint, weights=weights, digest=weights_digest(weights, checkpoint.arch))
    one, two = (key_of(build_backbone(c), split, transform, CLS) for c in (checkpoint, other))
    assert one != two


def test_another_batch_size_is_within_rounding(
    backbone: Backbone, split: Split, transform: Transform, tmp_path: Path
) -> None:
    def made(size: int, shard: int) -> np.ndarray:
        how = Extraction(batch_size=size, shard=shard)
        return extract(backbone, split, transform, (CLS,), cache=tmp_path / f"{size}-{shard}", how=how)[CLS].x

    base = made(50, 1024)
    for size, shard in ((1, 1024), (7, 20), (64, 3)):
        np.testing.assert_allclose(made(size, shard), base, rtol=1e-4, atol=1e-5)


def test_decoding_processes_change_nothing(
    backbone: Backbone, folder_split: Callable[[], Split], transform: Transform, tmp_path: Path
) -> None:
    one, two = (
        extract(backbone, folder_split(), transform, (CLS,), cache=tmp_path / str(n), how=Extraction(workers=n))[CLS]
        for n in (0, 2)
    )
    assert np.array_equal(one.x, two.x) and one.ids == two.ids == tuple(folder_split().files)


KILLED = """
import sys, time
from pathlib import Path
from evaltk import build_backbone, load_checkpoint
from evaltk.data import images
from evaltk.models.backbone import Backbone
from evaltk.data import transforms
from evaltk.features.extraction import Extraction, extract
from evaltk.types import Recipe

real = Backbone.features
def slow(self, x, recipes):
    time.sleep(0.04)
    return real(self, x, recipes)
Backbone.features = slow

backbone = build_backbone(load_checkpoint("NET"))
transform = transforms.view("eval", 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
split = images.from_folder("data", "train", Path(sys.argv[1]), ["a", "b"], get="")
how = Extraction(batch_size=4, shard=8)
extract(backbone, split, transform, (Recipe(), Recipe(tokens="mean")), cache=Path(sys.argv[2]), how=how)
"""


def test_killed_three_times_gives_the_same_bits(
    backbone: Backbone, transform: Transform, image_tree: Build, tmp_path: Path, forwards: list[int], forks: Any
) -> None:
    root, cache = image_tree({"train/a": 30, "train/b": 34}), tmp_path / "cache"
    split = images.from_folder("data", "train", root, ["a", "b"], get="")
    how = Extraction(batch_size=4, shard=8)
    entries = [Entry(root=cache, key=key_of(backbone, split, transform, r)) for r in (CLS, MEAN)]

    def shards() -> dict[str, list[int]]:
        """When those were written that both entries have."""
        one, two = ({p.name: p.stat().st_mtime_ns for p in e.partial.glob("shard-*.npz")} for e in entries)
        return {name: [one[name], two[name]] for name in one.keys() & two.keys()}

    before: dict[str, list[int]] = {}
    for _ in range(3):
        pid, deadline = forks.start(KILLED.replace("NET", NET), (root, cache)), time.monotonic() + 600
        while len(shards()) <= len(before) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        assert forks.ended(pid) == (-signal.SIGKILL, "", "")
        now = shards()
        assert before.items() <= now.items() and len(before) < len(now) < 8  # none made twice, none lost
        before = now
    resumed = extract(backbone, split, transform, (CLS, MEAN), cache=cache, how=how)
    assert sum(forwards) == 64 - 8 * len(before)
    undisturbed = extract(backbone, split, transform, (CLS, MEAN), cache=tmp_path / "other", how=how)
    for recipe in (CLS, MEAN):
        assert np.array_equal(resumed[recipe].x, undisturbed[recipe].x)
        assert np.array_equal(resumed[recipe].y, split.labels)
    assert not any(entry.partial.exists() for entry in entries)


def test_the_entry_says_what_made_it(backbone: Backbone, split: Split, transform: Transform, tmp_path: Path) -> None:
    found = extract(backbone, split, transform, (CLS,), cache=tmp_path)[CLS]
    folder = tmp_path / "features" / found.key.digest()
    assert json.loads((folder / "key.json").read_text()) == dataclasses.asdict(found.key)
    assert found.key.sha256 == load_checkpoint(NET).digest


def test_a_cache_that_cannot_be_written(backbone: Backbone, split: Split, transform: Transform, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="a folder to write into"):
        extract(backbone, split, transform, (CLS,), cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_size": 0}, "--batch-size"),
        ({"workers": -1}, "--workers"),
        ({"skip_bad_images": -1}, "--skip-bad-images"),
        ({"shard": 0}, "shard"),
    ],
)
def test_sizes_that_will_not_do(given: dict[str, int], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Extraction(**given)


def test_no_images_at_all(backbone: Backbone, transform: Transform, tmp_path: Path) -> None:
    none = images.from_arrays("x", "test", np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0), ["a"])
    with pytest.raises(DataError, match="at least one image"):
        extract(backbone, none, transform, (CLS,), cache=tmp_path)


def test_a_decoding_process_that_dies(
    backbone: Backbone,
    folder_split: Callable[[], Split],
    transform: Transform,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Transform, "pixels", lambda self, image: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(EvaltkError, match=r"decoding processes that stay alive.*--workers 0"):
        extract(backbone, folder_split(), transform, (CLS,), cache=tmp_path, how=Extraction(workers=1))


def test_images_that_do_not_fit_shared_memory_come_through_the_pipe(
    folder_split: Callable[[], Split], transform: Transform
) -> None:
    """Sending them failed in a thread of the worker, and its parent waited for ever."""
    views, indices = loading.Views(folder_split(), (transform,)), [[0, 1], [2, 3]]
    wanted = list(loading.stacked(views, indices, 0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        found = list(loading.stacked(views, indices, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [one.kept for one in found] == indices
    for a, b in zip(wanted, found, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.pixels, b.pixels, strict=True))


def test_a_device_that_is_too_small(
    backbone: Backbone, split: Split, transform: Transform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def features(self: Backbone, x: torch.Tensor, recipes: tuple[Recipe, ...]) -> Iterator[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Backbone, "features", features)
    with pytest.raises(SettingsError, match=r"--batch-size 20"):
        extract(backbone, split, transform, (CLS,), cache=tmp_path, how=Extraction(batch_size=40))


def test_the_automatic_batch_follows_the_net() -> None:
    sizes = [auto_batch(build_backbone(load_checkpoint(name))) for name in (NET, "random:vit_tiny_patch16_224")]
    assert sizes == [512, 64]
    assert auto_batch(build_backbone(load_checkpoint("pixels:8"))) == 512
