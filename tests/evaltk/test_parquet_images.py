"""Data sets in the parquet files of the Hugging Face hub, written here by pyarrow as the hub writes them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaltk import cli, datasets
from evaltk.data import overlap, parquet
from evaltk.data.subsets import subset
from evaltk.errors import DataError, SettingsError
from protocols.fewshot import shots as fewshot

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TEXTURES = ["banded", "woven", "braided"]  # the hub's order counts, sorted or not


def png(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def pixels(number: int) -> bytes:
    """Of the image that `png` encodes."""
    return np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8).tobytes()


def write(
    path: Path, images: Sequence[bytes | None], labels: Sequence[object], *, label: str = "label",
    names: Sequence[str] | None = TEXTURES, image: str = "image",
) -> None:  # fmt: skip
    """A file of rows in groups of two, as `datasets` writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(cells, kind), "id": pa.array(range(len(cells))), label: pa.array(labels)})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)


def dtd(root: Path) -> Path:
    """Train in two files, of three groups and one; official validation images; test."""
    write(root / "data/train-00000-of-00002.parquet", [png(i) for i in range(5)], [0, 1, 2, 0, 1])
    write(root / "data/train-00001-of-00002.parquet", [png(i) for i in range(5, 7)], [2, 0])
    write(root / "data/validation-00000-of-00001.parquet", [png(i) for i in range(7, 10)], [1, 2, 0])
    write(root / "data/test-00000-of-00001.parquet", [png(i) for i in range(10, 14)], [2, 1, 0, 2])
    return root


def test_rows_keep_their_order_labels_and_pixels(tmp_path: Path) -> None:
    root = dtd(tmp_path)
    for place in (root, root / "data"):
        found = datasets.load(f"dtd={place}")
        assert (found.train.name, len(found.train), len(found.test)) == ("trainval", 10, 4)
        assert found.train.classes == tuple(TEXTURES) and found.metric == "top1"
        assert found.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
        assert found.val.tolist() == [False] * 7 + [True] * 3
        for i in (9, 0, 6, 4, 5, 4, 3):  # in no order
            assert np.array_equal(np.asarray(found.train.open(i)), np.asarray(Image.open(io.BytesIO(png(i)))))
        assert np.array_equal(np.asarray(found.test.open(3)), np.asarray(Image.open(io.BytesIO(png(13)))))
    assert found.train.image_id(5) == "train-00001-of-00002.parquet#0" and len(set(found.train.files)) == 10
    assert found.train.reader.num_rows == 2  # one row group is in memory, not the file
    told = " | ".join(d.words() for d in found.deviations)
    assert "train has 7 images, DTD 1,880: not comparable" in told and "cannot be told" in told


def test_rows_that_are_taken_keep_their_pixels(tmp_path: Path) -> None:
    whole = datasets.load(f"dtd={dtd(tmp_path)}").train
    part = whole.taken(np.array([1, 4, 5, 8]), name="part", fingerprint="1")
    held_out = subset(part, np.array([0, 2, 3]), "held out")
    few, _ = fewshot.union(part, [fewshot.Shots(per_class=1, split=1, rows=np.array([0, 2, 3]))])
    for split, numbers in ((part, (1, 4, 5, 8)), (held_out, (1, 5, 8)), (few, (1, 5, 8))):
        assert split.labels.tolist() == [whole.labels[n] for n in numbers]
        for i, number in enumerate(numbers):
            assert split.image_id(i) == whole.image_id(number)
            assert np.array_equal(np.asarray(split.open(i)), np.asarray(Image.open(io.BytesIO(png(number)))))


def test_fingerprints(tmp_path: Path) -> None:
    first = datasets.load(f"dtd={dtd(tmp_path / 'a')}")
    assert datasets.load(f"dtd={dtd(tmp_path / 'b')}").fingerprint == first.fingerprint
    write(tmp_path / "b/data/test-00000-of-00001.parquet", [png(i) for i in range(10, 14)], [2, 1, 0, 1])
    assert datasets.load(f"dtd={tmp_path / 'b'}").fingerprint != first.fingerprint
    write(tmp_path / "b/data/test-00000-of-00001.parquet", [png(i) for i in range(10, 13)] + [png(99)], [2, 1, 0, 2])
    assert datasets.load(f"dtd={tmp_path / 'b'}").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "label", "image", "test"),
    [
        ("aircraft", "variant", "image", "test"), ("cifar10", "label", "img", "test"),
        ("cifar100", "fine_label", "img", "test"), ("flowers102", "label", "image", "test"),
        ("food101", "label", "image", "validation"), ("pets", "label", "image", "test"),
        ("sun397", "label", "image", "test"),
    ],
)  # fmt: skip
def test_columns_as_the_hub_calls_them(tmp_path: Path, name: str, label: str, image: str, test: str) -> None:
    write(tmp_path / "data/train-00000-of-00001.parquet", [png(0), png(1)], [2, 1], label=label, image=image)
    write(tmp_path / f"data/{test}-00000-of-00001.parquet", [png(2)], [1], label=label, image=image)
    found = datasets.load(f"{name}={tmp_path}")
    assert found.train.labels.tolist() == [2, 1] and found.test.labels.tolist() == [1] and found.val is None
    assert found.train.classes == tuple(TEXTURES) and found.test.open(0).size == (8, 6)
    assert any("val has 0 images" in d.text for d in found.deviations) == (name in ("aircraft", "flowers102"))


def test_labels_as_names_and_as_bare_numbers(tmp_path: Path) -> None:
    for labels, classes, ids in (
        (["b", "a", "c"], ("a", "b", "c"), [1, 0, 2]),
        ([2, 0, 2], ("000", "001", "002"), [2, 0, 2]),
    ):
        for split in ("train", "test"):
            write(tmp_path / f"{split}.parquet", [png(i) for i in range(3)], labels, names=None)
        found = datasets.load(f"pets={tmp_path}")
        assert found.train.classes == classes and found.test.labels.tolist() == ids


@pytest.mark.parametrize(
    ("labels", "more", "says"),
    [
        ([0, None, 1], {}, "rows without label"),  # labels missing
        ([-1, -1, -1], {}, "labels 0 to 2; got labels -1 to"),  # a test split whose labels are withheld
        ([0, 1, 3], {}, "labels 0 to 2; got labels"),
        ([0.0, 1.0, 2.0], {}, "all numbers or all names"),
        (["a", "b", "c"], {}, "all numbers or all names"),
        ([0, 1, 2], {"label": "other"}, "the labels in one called label or labels; got columns image, id, other"),
        ([0, 1, 2], {"names": ["x", "y", "z"]}, "class names that differ between files"),
        ([0, 1, 2], {"image": "img"}, "images in one column; got image, img"),
    ],
)
def test_columns_that_will_not_do(tmp_path: Path, labels: list, more: dict, says: str) -> None:
    write(tmp_path / "train.parquet", [png(i) for i in range(3)], [0, 1, 2])
    write(tmp_path / "test.parquet", [png(i) for i in range(3, 6)], labels, **more)
    with pytest.raises(DataError) as error:
        datasets.load(f"pets={tmp_path}")
    assert says in str(error.value)


def test_files_that_lack_or_broke(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [png(0), png(1)], [0, 1])
    with pytest.raises(DataError, match=r"wanted test-\*\.parquet; got no such file.*vgg/data/pets"):
        datasets.load(f"pets={tmp_path}")
    shutil.copy(tmp_path / "train.parquet", tmp_path / "test.parquet")
    shutil.copy(tmp_path / "train.parquet", tmp_path / "validation.parquet")
    with pytest.raises(DataError, match="Oxford-IIIT Pets has no official validation split"):
        datasets.load(f"pets={tmp_path}")
    (tmp_path / "validation.parquet").unlink()
    for content in (b"", b"PAR1", (tmp_path / "train.parquet").read_bytes()[:-9]):
        (tmp_path / "test.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"wanted a parquet file.*test\.parquet"):
            datasets.load(f"pets={tmp_path}")
    pq.write_table(pa.table({"label": [1, 2]}), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="one column of encoded images"):
        datasets.load(f"pets={tmp_path}")


def test_row_groups_of_other_sizes_than_stated(tmp_path: Path) -> None:
    """Images would be paired with the labels of others, or looked for where there are none."""
    path = dtd(tmp_path) / "data/test-00000-of-00001.parquet"
    sound, said = path.read_bytes(), set()
    start = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    for at in (i for i in range(start, len(sound) - 8) if sound[i] == 4):  # 2 rows, as parquet writes numbers
        path.write_bytes(sound[:at] + b"\6" + sound[at + 1 :])
        try:
            split = datasets.load(f"dtd={tmp_path}").test
            assert [np.asarray(split.open(i)).tobytes() for i in range(4)] == [pixels(i) for i in range(10, 14)]
        except DataError as error:
            said.add(error.got)
    assert said >= {"4 rows where its metadata states 5"}


def test_images_that_will_not_do_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [png(0), None, b"", b"no image", png(4)], [0, 1, 0, 1, 0])
    write(tmp_path / "test.parquet", [png(5), png(6)], [0, 1])
    found = datasets.load(f"pets={tmp_path}")
    for row, says in ((1, "an encoded image"), (2, "an encoded image"), (3, "an image that can be decoded")):
        with pytest.raises(DataError, match=rf"{says}.*train\.parquet#{row}"):
            found.train.open(row)
    assert found.train.open(4).size == (8, 6)
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(DataError, match="wanted a parquet file"):
        found.train.open(0)


def test_shared_images_are_seen(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [png(i) for i in range(5)], [0, 1, 2, 0, 1])
    write(tmp_path / "test.parquet", [png(9), png(3), png(8)], [0, 1, 2])
    found = datasets.load(f"pets={tmp_path}")
    assert overlap.shared(found.train, found.test) == [("test.parquet#1", "train.parquet#3")]
    with pytest.raises(DataError, match="got 1 of 3 with the same bytes"):
        overlap.check(found)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = dtd(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SettingsError, match=r"wanted pyarrow to read parquet.*pip install 'evaltk\[parquet\]'"):
        datasets.load(f"dtd={root}")
    assert parquet.find(root) == root / "data"


def test_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = dtd(tmp_path / "dtd")
    folders = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    settings = ["--transfer.mode", "holdout", "--transfer.strengths", "3", "--knn.k", "1", "--knn.choose", "0"]
    command = ["run", "pixels:4", "--protocols", "transfer", "knn", "--data", f"dtd={root}"]
    assert cli.main([*command, *settings, *folders]) == 0
    out = capsys.readouterr().out
    assert "Results on dtd test, n = 4" in out and "transfer" in out and "k-NN" in out
