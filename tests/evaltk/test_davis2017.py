"""DAVIS-2017 on disk: what is listed, and what an incomplete copy is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaltk.data import frames
from evaltk.datasets import davis2017
from evaltk.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("dog\ncat\n\n")
    for name in ("cat", "dog", "unlisted"):
        for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "png")):
            place = tmp_path / folder / "480p" / name
            place.mkdir(parents=True)
            for t in range(3):
                Image.new("L", (8, 6), t).save(place / f"{t:05d}.{ending}")
    return tmp_path


def test_sequences_are_those_of_the_list_in_its_order(root: Path) -> None:
    found = davis2017.load(root)
    assert [s.name for s in found.sequences] == ["dog", "cat"]
    assert [p.name for p in found.sequences[0].frames] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert [p.stem for p in found.sequences[0].masks] == ["00000", "00001", "00002"]
    assert (found.KIND, found.splits, found.split) == ("sequences", (), "val")
    assert "not comparable with published figures" in found.deviations[0].words()


def test_the_fingerprint_is_the_same_elsewhere_and_the_stamp_tells_a_change(root: Path, tmp_path: Path) -> None:
    before = davis2017.load(root)
    shutil.copytree(root, tmp_path / "elsewhere" / "davis")
    assert davis2017.load(tmp_path / "elsewhere" / "davis").fingerprint == before.fingerprint
    os.utime(root / "JPEGImages" / "480p" / "cat" / "00001.jpg", ns=(1, 1))
    after = davis2017.load(root)
    assert after.fingerprint == before.fingerprint
    assert after.stamp != before.stamp
    (root / "Annotations" / "480p" / "cat" / "00001.png").write_bytes(b"longer than it was, and no image at all" * 9)
    assert davis2017.load(root).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("ImageSets/2017/val.txt", "list of sequences val.txt"),
        ("JPEGImages/480p/dog", "folder of JPG files"),
        ("Annotations/480p/cat", "folder of PNG files"),
        ("Annotations/480p/dog/00000.png", "annotation of the first frame"),
        ("Annotations/480p/dog/00002.png", "alone: 00002"),
        ("JPEGImages/480p/cat/00001.jpg", "alone: 00001"),
    ],
)
def test_what_lacks_is_named_with_where_to_get_it(root: Path, gone: str, told: str) -> None:
    shutil.rmtree(root / gone) if (root / gone).is_dir() else (root / gone).unlink()
    with pytest.raises(DataError, match=told) as error:
        davis2017.load(root)
    assert "davischallenge.org" in str(error.value)


def test_a_list_with_a_sequence_twice_is_refused(root: Path) -> None:
    (root / "ImageSets" / "2017" / "val.txt").write_text("dog\ndog\n")
    with pytest.raises(DataError, match="a sequence twice"):
        davis2017.load(root)


@pytest.mark.parametrize(
    ("names", "told"),
    [(b"dog\n../480p/cat\n", "names of folders; got '../480p/cat'"), (b"dog\n\xff\n", "invalid start byte")],
)
def test_a_list_that_leads_elsewhere_or_is_no_text(root: Path, names: bytes, told: str) -> None:
    """Masks are written into folders of these names."""
    (root / "ImageSets" / "2017" / "val.txt").write_bytes(names)
    with pytest.raises(DataError, match=told):
        davis2017.load(root)


def test_masks_alone_are_enough_for_scoring(root: Path) -> None:
    shutil.rmtree(root / "JPEGImages")
    assert [len(s.masks) for s in davis2017.read_sequences(root, frames=False)] == [3, 3]


def test_index_masks_are_read_as_they_are_and_colours_are_refused(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    frames.write_ids(tmp_path / "a.png", ids)
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert np.array_equal(frames.read_ids(tmp_path / "a.png"), ids)
    Image.fromarray(ids).convert("RGB").save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"mode RGB.*b\.png"):
        frames.read_ids(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"c\.png"):
        frames.read_ids(tmp_path / "c.png")
    frames.write_ids(tmp_path / "d.png", ids[:4])
    with pytest.raises(DataError, match=r"7 x 4.*d\.png"):
        frames.read_masks([tmp_path / "a.png", tmp_path / "d.png"])


def test_the_palette_is_that_of_pascal_voc() -> None:
    colours = np.frombuffer(frames.palette(), dtype=np.uint8).reshape(256, 3)
    assert colours[:6].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert colours[8].tolist() == [64, 0, 0]
    assert colours[255].tolist() == [224, 224, 192]
