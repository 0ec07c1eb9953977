"""Extraction beside what is damaged: full disks, shards and entries, unreadable images, other runs."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evaltk import build_backbone, files, load_checkpoint
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, StorageError
from evaltk.features.extraction import Extraction, extract, key_of
from evaltk.features.shards import Entry
from evaltk.models.backbone import Backbone
from evaltk.types import Recipe

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
CLS = Recipe()
Build = Callable[..., Path]


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
