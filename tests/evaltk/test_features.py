"""Features: equal to a plain loop, kept by content, made once, resumed to the bit; and everything that can go wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaltk import build_backbone, datasets, files, load_checkpoint
from evaltk.data import images, transforms
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


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone(load_checkpoint(NET))


@pytest.fixture(scope="module")
def transform(backbone: Backbone) -> Transform:
    return transforms.view("eval", backbone.arch.img_size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def split() -> Split:
    whole = datasets.load("digits").test
    assert whole.pixels is not None
    return images.from_arrays("digits", "some", whole.pixels[:50], whole.labels[:50], whole.classes)


@pytest.fixture
def folder_split(image_tree: Build) -> Callable[[], Split]:
    """Reads 3 + 4 images of two classes anew, as the next run would."""
    root = image_tree({"train/a": 3, "train/b": 4})
    return lambda: images.from_folder("data", "train", root, ["a", "b"], get="")


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that went through a net."""
    seen: list[int] = []
    real = Backbone.features

    def counted(self: Backbone, x: torch.Tensor, recipes: tuple[Recipe, ...]) -> list[torch.Tensor]:
        seen.append(len(x))
        return real(self, x, recipes)

    monkeypatch.setattr(Backbone, "features", counted)
    return seen


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


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`stopped(n)`: from the n-th shard on, the disk is full; `stopped(-1)`: it has room again."""
    real, left = files.write, [-1]

    def write(path: Path, fill: Callable) -> None:
        if "shard" in path.name and left[0] >= 0:
            left[0] -= 1
            if left[0] < 0:
                left[0] = 0

                def fill(stream: object) -> None:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        real(path, fill)

    monkeypatch.setattr(files, "write", write)

    def after(count: int) -> None:
        left[0] = count

    return after


def test_a_full_disk_keeps_the_earlier_shards(
    backbone: Backbone,
    split: Split,
    transform: Transform,
    tmp_path: Path,
    forwards: list[int],
    stopped: Callable[[int], None],
) -> None:
    how = Extraction(batch_size=5, shard=10)
    stopped(2)
    with pytest.raises(StorageError, match=r"no space left.*finished work is kept"):
        extract(backbone, split, transform, (CLS,), cache=tmp_path / "a", how=how)
    partial = Entry(root=tmp_path / "a", key=key_of(backbone, split, transform, CLS)).partial
    assert sorted(p.name for p in partial.iterdir()) == ["plan.json", "shard-00000.npz", "shard-00001.npz"]
    stopped(-1)
    forwards.clear()
    resumed = extract(backbone, split, transform, (CLS,), cache=tmp_path / "a", how=how)[CLS]
    assert sum(forwards) == 30
    assert np.array_equal(resumed.x, extract(backbone, split, transform, (CLS,), cache=tmp_path / "b", how=how)[CLS].x)


def test_a_resumed_run_keeps_the_sizes_it_was_begun_with(
    backbone: Backbone,
    split: Split,
    transform: Transform,
    tmp_path: Path,
    forwards: list[int],
    stopped: Callable[[int], None],
) -> None:
    def begun(cache: str) -> None:
        stopped(2)
        with pytest.raises(StorageError):
            extract(backbone, split, transform, (CLS,), cache=tmp_path / cache, how=Extraction(batch_size=5, shard=10))
        stopped(-1)
        forwards.clear()

    begun("auto")
    extract(backbone, split, transform, (CLS,), cache=tmp_path / "auto", how=Extraction(shard=10))
    assert forwards == [5] * 6
    begun("fixed")
    extract(backbone, split, transform, (CLS,), cache=tmp_path / "fixed", how=Extraction(batch_size=10, shard=10))
    assert forwards == [10] * 5  # another size was asked for: shards of two sizes are never joined
    begun("shard")
    found = extract(backbone, split, transform, (CLS,), cache=tmp_path / "shard", how=Extraction(batch_size=5, shard=7))
    assert found[CLS].x.shape == (50, 32) and sum(forwards) == 50


def test_shards_of_other_sizes_or_damaged_are_not_joined(
    backbone: Backbone,
    split: Split,
    transform: Transform,
    tmp_path: Path,
    stopped: Callable[[int], None],
) -> None:
    how = Extraction(batch_size=5, shard=10)
    stopped(2)
    with pytest.raises(StorageError):
        extract(backbone, split, transform, (CLS,), cache=tmp_path, how=how)
    stopped(-1)
    partial = Entry(root=tmp_path, key=key_of(backbone, split, transform, CLS)).partial
    shutil.copy(partial / "shard-00000.npz", partial / "shard-00001.npz")
    with pytest.raises(StorageError, match=r"a whole shard.*images 0 to 10 where 10 comes next.*made anew"):
        extract(backbone, split, transform, (CLS,), cache=tmp_path, how=how)
    (partial / "plan.json").write_text("[1")
    resumed = extract(backbone, split, transform, (CLS,), cache=tmp_path, how=how)[CLS]
    assert np.array_equal(resumed.x, extract(backbone, split, transform, (CLS,), cache=tmp_path / "b", how=how)[CLS].x)


def test_another_run_may_finish_the_same_entry_first(
    backbone: Backbone, split: Split, transform: Transform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, real, nested = Extraction(batch_size=10, shard=10), Entry.write_shard, []

    def raced(self: Entry, number: int, *rest: object) -> None:
        if number == 3 and not nested:  # in the middle, the other run does it all
            nested.append(True)
            nested.append(extract(backbone, split, transform, (CLS,), cache=tmp_path, how=how)[CLS])
        real(self, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Entry, "write_shard", raced)
    slower = extract(backbone, split, transform, (CLS,), cache=tmp_path, how=how)[CLS]
    assert np.array_equal(slower.x, nested[1].x)
    assert [p.name for p in (tmp_path / "features").iterdir()] == [slower.key.digest()]


def damage(split: Split, indices: tuple[int, ...], content: bytes = b"\x89PNG broken") -> None:
    for index in indices:
        (split.root / split.files[index]).write_bytes(content)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"\x89PNG broken", b""])
def test_unreadable_images_are_named_allowed_and_counted(
    backbone: Backbone,
    folder_split: Callable[[], Split],
    transform: Transform,
    tmp_path: Path,
    content: bytes,
    workers: int,
) -> None:
    damage(folder_split(), (1, 4), content)

    def run(allowed: int, cache: str) -> object:
        how = Extraction(skip_bad_images=allowed, workers=workers, shard=4)
        return extract(backbone, folder_split(), transform, (CLS,), cache=tmp_path / cache, how=how)[CLS]

    with pytest.raises(DataError, match=r"at most 0 unreadable images.*train/a/001\.png.*--skip-bad-images N"):
        run(0, "a")
    with pytest.raises(DataError, match=r"at most 1 unreadable images.*got 2"):
        run(1, "a")
    found = run(2, "a")
    assert found.skipped == ("train/a/001.png", "train/b/001.png") and found.x.shape == (5, 32)
    assert found.y.tolist() == [0, 0, 1, 1, 1] and "train/b/000.png" in found.ids
    assert np.array_equal(found.x, run(3, "a").x)
    with pytest.raises(DataError, match=r"at most 1 unreadable images.*got 2"):  # the entry is there, the leave is not
        run(1, "a")


def test_a_mended_image_is_read_again(
    backbone: Backbone, folder_split: Callable[[], Split], transform: Transform, tmp_path: Path
) -> None:
    split, how = folder_split(), Extraction(skip_bad_images=1)
    whole = (split.root / split.files[0]).read_bytes()
    damage(split, (0,), b"x" * len(whole))
    assert len(extract(backbone, folder_split(), transform, (CLS,), cache=tmp_path, how=how)[CLS].x) == 6
    damage(split, (0,), whole)
    assert len(extract(backbone, folder_split(), transform, (CLS,), cache=tmp_path, how=how)[CLS].x) == 7


def test_no_image_is_readable(
    backbone: Backbone, folder_split: Callable[[], Split], transform: Transform, tmp_path: Path
) -> None:
    damage(folder_split(), tuple(range(7)))
    with pytest.raises(DataError, match="at least one readable image"):
        extract(backbone, folder_split(), transform, (CLS,), cache=tmp_path, how=Extraction(skip_bad_images=7))


def test_an_image_no_memory_is_enough_for_is_named(
    backbone: Backbone,
    folder_split: Callable[[], Split],
    transform: Transform,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pixels(self: Transform, image: object) -> np.ndarray:
        raise MemoryError("a strip")

    monkeypatch.setattr(Transform, "pixels", pixels)
    with pytest.raises(DataError, match=r"MemoryError: a strip.*train/a/000\.png"):
        extract(backbone, folder_split(), transform, (CLS,), cache=tmp_path)


def test_features_that_are_not_finite_name_the_image(
    folder_split: Callable[[], Split], transform: Transform, tmp_path: Path
) -> None:
    net = build_backbone(load_checkpoint(NET))
    real = net.net.last_blocks
    calls: list[int] = []

    def spoilt(x: torch.Tensor, **rest: object) -> list[torch.Tensor]:
        calls.append(len(x))
        out = real(x, **rest)
        if len(calls) == 2:
            out[0][1] = torch.nan
        return out

    net.net.last_blocks = spoilt
    with pytest.raises(DataError, match=r"NaN or infinity in 1 of 2; where: data train, image train/b/000\.png"):
        extract(net, folder_split(), transform, (CLS,), cache=tmp_path, how=Extraction(batch_size=2, shard=4))
    net.net.last_blocks = real
    assert len(extract(net, folder_split(), transform, (CLS,), cache=tmp_path)[CLS].x) == 7


def spoil(entry: Path, what: str) -> None:
    if what == "cut":
        (entry / "x.npy").write_bytes((entry / "x.npy").read_bytes()[:-200])
    elif what == "gone":
        (entry / "kept.npy").unlink()
    elif what == "labels":
        np.save(entry / "y.npy", np.zeros(50, np.int64))
    elif what == "dtype":
        np.save(entry / "x.npy", np.zeros((50, 32)))
    elif what == "indices":
        np.save(entry / "kept.npy", np.arange(50) + 1)
    else:
        (entry / "x.npy").write_bytes(b"")


@pytest.mark.parametrize("what", ["cut", "gone", "labels", "dtype", "indices", "empty"])
def test_a_damaged_entry_of_a_time_before_checksums_says_what_to_do(
    backbone: Backbone, split: Split, transform: Transform, tmp_path: Path, what: str
) -> None:
    extract(backbone, split, transform, (CLS,), cache=tmp_path)
    entry = Entry(root=tmp_path, key=key_of(backbone, split, transform, CLS)).whole
    (entry / "checksums.json").unlink()
    extract(backbone, split, transform, (CLS,), cache=tmp_path)
    spoil(entry, what)
    if what == "gone":  # seen without opening anything
        assert len(extract(backbone, split, transform, (CLS,), cache=tmp_path)[CLS].x) == 50
        assert entry.with_name(f"{entry.name}.damaged").is_dir() and (entry / "kept.npy").exists()
        return
    with pytest.raises(StorageError, match=rf"a whole cache entry.*evaltk cache prune {entry.name[:12]}"):
        extract(backbone, split, transform, (CLS,), cache=tmp_path)


@pytest.mark.parametrize("name", ["x.npy", "y.npy", "kept.npy", "key.json", "checksums.json"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_entry_is_set_aside_and_made_anew(
    backbone: Backbone, split: Split, transform: Transform, tmp_path: Path, name: str, gone: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    before = np.array(extract(backbone, split, transform, (CLS,), cache=tmp_path)[CLS].x)
    entry = Entry(root=tmp_path, key=key_of(backbone, split, transform, CLS))
    data = bytearray((entry.whole / name).read_bytes())
    data[-20] ^= 1
    (entry.whole / name).unlink() if gone else (entry.whole / name).write_bytes(data)
    found = extract(backbone, split, transform, (CLS,), cache=tmp_path)[CLS]
    assert np.array_equal(found.x, before) and np.array_equal(found.y, split.labels)
    assert entry.damaged.exists() == (not gone or name != "checksums.json")
    assert gone or ((f"{name}: " in caplog.text or name == "checksums.json") and "made anew" in caplog.text)
    caplog.clear()
    extract(backbone, split, transform, (CLS,), cache=tmp_path)
    assert not caplog.records


def test_a_damaged_shard_is_made_anew(
    backbone: Backbone, split: Split, transform: Transform, tmp_path: Path, stopped: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    how = Extraction(batch_size=5, shard=10)
    whole = extract(backbone, split, transform, (CLS,), cache=tmp_path / "whole", how=how)[CLS]
    stopped(2)
    with pytest.raises(StorageError):
        extract(backbone, split, transform, (CLS,), cache=tmp_path, how=how)
    stopped(-1)
    shard = Entry(root=tmp_path, key=whole.key).partial / "shard-00001.npz"
    data = bytearray(shard.read_bytes())
    data[400] ^= 4
    shard.write_bytes(data)
    assert np.array_equal(extract(backbone, split, transform, (CLS,), cache=tmp_path, how=how)[CLS].x, whole.x)
    assert "a damaged shard is made anew: shard-00001.npz" in caplog.text


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
