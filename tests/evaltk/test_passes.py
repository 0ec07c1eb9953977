"""One pass over the images for every protocol and preprocessing, and none over their files for the next net."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaltk.checkpoints.load import load_checkpoint
from evaltk.data import images, loading
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, SettingsError, StorageError
from evaltk.features.extraction import Extraction, extract, extract_views
from evaltk.models.backbone import Backbone, build_backbone
from evaltk.types import Recipe

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
CLS, MEAN, TWO = Recipe(), Recipe(tokens="mean"), Recipe(last=2, norm=False)
HOW = Extraction(batch_size=3, shard=4, skip_bad_images=1)
KEEPING = dataclasses.replace(HOW, pixels=10**6)
LOOKS = [
    Transform(resize=18, crop=16, interpolation=filter_, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    for filter_ in ("bicubic", "bilinear")
]


@pytest.fixture(scope="module")
def nets() -> list[Backbone]:
    return [build_backbone(load_checkpoint(f"{NET}@{seed}")) for seed in range(2)]


@pytest.fixture
def folder_split(image_tree: Callable[..., Path]) -> Callable[[], Split]:
    """Reads 3 + 4 images of two classes anew, one of them damaged."""
    root = image_tree({"train/a": 3, "train/b": 4}, form="jpg")
    (root / "train/b/002.jpg").write_bytes(b"\xff\xd8\xff broken")
    return lambda: images.from_folder("data", "train", root, ["a", "b"], get="")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each image was decoded."""
    seen: Counter[int] = Counter()
    real = Split.open

    def counted(self: Split, index: int) -> object:
        seen[index] += 1
        return real(self, index)

    monkeypatch.setattr(Split, "open", counted)
    return seen


def rows(net: Backbone, split: Split, cache: Path, how: Extraction = HOW) -> list[np.ndarray]:
    found = extract_views(net, split, {LOOKS[0]: (CLS, TWO), LOOKS[1]: (CLS, MEAN)}, cache=cache, how=how)
    return [np.array(features.x) for view in found.values() for features in view.values()]


@pytest.fixture
def apart(nets: list[Backbone], folder_split: Callable[[], Split], tmp_path: Path) -> list[np.ndarray]:
    """The features of the first net, each view in a pass of its own."""
    split, cache = folder_split(), tmp_path / "apart"
    parts = [extract(nets[0], split, LOOKS[0], (CLS, TWO), cache=cache, how=HOW)]
    parts += [extract(nets[0], split, LOOKS[1], (CLS, MEAN), cache=cache, how=HOW)]
    return [np.array(features.x) for part in parts for features in part.values()]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_image_is_decoded_once_for_all_views(
    workers: int, nets: list[Backbone], folder_split: Callable[[], Split], apart: list[np.ndarray], tmp_path: Path,
    opened: Counter[int],
) -> None:  # fmt: skip
    how = dataclasses.replace(HOW, workers=workers)
    for got, wanted in zip(rows(nets[0], folder_split(), tmp_path / "once", how), apart, strict=True):
        assert got.shape == (6, wanted.shape[1]) and np.array_equal(got, wanted)
    assert workers or opened == dict.fromkeys(range(7), 1)


def test_a_view_begun_alone_is_joined_by_another(
    nets: list[Backbone], folder_split: Callable[[], Split], apart: list[np.ndarray], tmp_path: Path,
    opened: Counter[int],
) -> None:  # fmt: skip
    extract(nets[0], folder_split(), LOOKS[1], (CLS,), cache=tmp_path / "some", how=HOW)
    got = rows(nets[0], folder_split(), tmp_path / "some")
    assert all(map(np.array_equal, got, apart)) and opened == dict.fromkeys(range(7), 2)


def test_the_next_net_decodes_nothing(
    nets: list[Backbone], folder_split: Callable[[], Split], apart: list[np.ndarray], tmp_path: Path,
    opened: Counter[int],
) -> None:  # fmt: skip
    plain = rows(nets[1], folder_split(), tmp_path / "plain")
    first = rows(nets[0], folder_split(), tmp_path / "kept", KEEPING)
    assert all(map(np.array_equal, first, apart))
    opened.clear()
    second = rows(nets[1], folder_split(), tmp_path / "kept", KEEPING)
    assert not opened and all(map(np.array_equal, second, plain))
    how = dataclasses.replace(KEEPING, batch_size=2)  # other batches of the same images
    again = extract(nets[1], folder_split(), LOOKS[0], (MEAN,), cache=tmp_path / "kept", how=how)[MEAN]
    assert not opened and again.x.shape == (6, 32) and again.skipped == ("train/b/002.jpg",)
    with pytest.raises(DataError, match="at most 0 unreadable images"):
        none = dataclasses.replace(KEEPING, skip_bad_images=0)
        extract(nets[1], folder_split(), LOOKS[0], (TWO,), cache=tmp_path / "kept", how=none)
    assert all(path.suffix in (".npy", ".json") for path in (tmp_path / "kept/pixels").glob("*/*"))


@pytest.mark.parametrize("what", ["pixels", "about", "other images", "gone", "touched"])
def test_pixels_that_cannot_be_used_are_decoded_anew(
    what: str, nets: list[Backbone], folder_split: Callable[[], Split], tmp_path: Path, opened: Counter[int]
) -> None:
    cache, split = tmp_path / "kept", folder_split()
    wanted = rows(nets[1], split, tmp_path / "plain")
    rows(nets[0], split, cache, KEEPING)
    path = sorted((cache / "pixels").glob("*/00000.npy"))[0]
    if what == "pixels":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif what == "about":
        path.with_suffix(".json").write_text("[")
    elif what == "other images":  # a flipped bit of an index: pixels would be taken for those of another image
        text = path.with_suffix(".json").read_text()
        path.with_suffix(".json").write_text(text.replace('"kept": [0, 1', '"kept": [0, 3'))
        assert text != path.with_suffix(".json").read_text()
    elif what == "gone":
        path.unlink()
    else:
        image = (split.root or Path()) / split.image_id(0)
        image.touch()
    opened.clear()
    split = folder_split()
    assert all(map(np.array_equal, rows(nets[1], split, cache, KEEPING), wanted))
    assert len(opened) == (7 if what == "touched" else 4)


def test_pixels_keep_to_their_bound(
    nets: list[Backbone], folder_split: Callable[[], Split], image_tree: Callable[..., Path], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    cache, bound = tmp_path / "kept", 16_000  # a view of the seven images takes 6 kB
    caplog.set_level("INFO", "evaltk")

    def size() -> int:
        return sum(path.stat().st_size for path in (cache / "pixels").glob("*/*"))

    how = dataclasses.replace(HOW, pixels=bound)
    rows(nets[0], folder_split(), cache, how)
    old = set((cache / "pixels").iterdir())
    assert 0 < size() <= bound and len(old) == 2 and "too small" not in caplog.text
    other = images.from_folder(
        "other", "train", image_tree({"train/a": 6, "train/b": 1}, name="other"), ["a", "b"], get=""
    )
    rows(nets[0], other, cache, how)
    assert size() <= bound and len(old & set((cache / "pixels").iterdir())) < 2
    many = images.from_folder(
        "many", "train", image_tree({"train/a": 30, "train/b": 9}, name="many"), ["a", "b"], get=""
    )
    rows(nets[0], many, cache, how)
    assert size() <= bound and "--pixels is too small for many train: part of it is kept" in caplog.text


def test_what_is_out_of_range() -> None:
    with pytest.raises(SettingsError, match="--pixels"):
        Extraction(pixels=-1)


def test_batches_through_pipes_are_those_through_shared_memory(folder_split: Callable[[], Split]) -> None:
    load = loading.Views(folder_split(), tuple(LOOKS))
    items = [loading._Images(load)[index] for index in range(7)]
    piped, shared = loading._piped(items), loading._shared(items)
    assert piped[:2] == shared[:2] and [index for index, _ in piped[1]] == [5]
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(piped[2], shared[2], strict=True))
    image = load.split.open(3)
    assert np.array_equal(piped[2][1][3], LOOKS[1].pixels(image))


def test_too_little_room_is_said_once_the_first_shard_is_there(
    folder_split: Callable[[], Split], nets: list[Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 7 images of 32 and 64 values in shards, and the larger one again while they are joined.
    needed = 7 * 4 * (32 + 64) + 7 * 4 * 64
    views = {LOOKS[0]: (CLS, TWO)}
    monkeypatch.setattr("evaltk.files.free_bytes", lambda path: needed - 1)
    with pytest.raises(
        StorageError, match=rf"wanted {needed:,} bytes for features; got {needed - 1:,} free; .*--cache"
    ):
        extract_views(nets[0], folder_split(), views, cache=tmp_path / "cache", how=HOW)
    monkeypatch.setattr("evaltk.files.free_bytes", lambda path: needed)
    assert extract_views(nets[0], folder_split(), views, cache=tmp_path / "cache", how=HOW)
