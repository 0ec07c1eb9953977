"""Hugging Face datasets saved to disk and other Arrow files: written by pyarrow as `datasets` 5 writes them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from own_images import Row, rows_of, write_saved, write_saved_splits
from PIL import Image

from evaltk import cli, datasets
from evaltk.data.options import DataOptions
from evaltk.errors import DataError, SettingsError

pa = pytest.importorskip("pyarrow")

Build = Callable[..., Path]
SPLIT = DataOptions(split=0.5)


@pytest.fixture
def rows(image_tree: Build) -> list[Row]:
    return rows_of(image_tree({"cat": 4, "dog": 4}))


def stream(path: Path, table: object) -> Path:
    """A file of batches without anything beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:  # type: ignore[attr-defined]
        writer.write_table(table, max_chunksize=3)
    return path


def encoded(rows: list[Row]) -> list[dict[str, object]]:
    return [{"bytes": file.read_bytes(), "path": file.name} for file, _, _ in rows]


def test_a_saved_dataset(rows: list[Row], tmp_path: Path) -> None:
    found = datasets.load(f"arrow={write_saved(tmp_path / 'saved', rows, files=3, batch=2)}", SPLIT)
    assert found.train.classes == ("cat", "dog") and found.sizes == {"train": 4, "test": 4}
    ids = {s.image_id(i): (int(s.labels[i]), s.open(i).size) for s in found.splits for i in range(4)}
    assert len(ids) == 8 and ids["data-00000-of-00003.arrow#2"] == (0, (20, 16))
    assert ids["data-00002-of-00003.arrow#1"] == (1, (20, 16))


def test_splits_of_a_saved_dict(rows: list[Row], tmp_path: Path) -> None:
    splits = {"train": rows[:5], "validation": rows[5:6], "test": rows[6:], "extra": rows}
    root = tmp_path / "saved"
    for split, mine in splits.items():
        write_saved(root / split, mine, files=1, features=FEATURES)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    found = datasets.load(f"arrow={root}")
    assert found.sizes == {"train": 5, "test": 2} and found.notes[:1] == ("val: 1 images are not used",)
    assert found.test.image_id(0) == "test/data-00000-of-00001.arrow#0" and found.test.labels.tolist() == [1, 1]
    pair = datasets.load(f"arrow={root}/train,{root}/test")
    assert pair.train.labels.tolist() == found.train.labels.tolist()


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


def test_files_by_name_of_both_formats(rows: list[Row], tmp_path: Path) -> None:
    """As the library's cache names them; labels as text; bytes without a path beside them."""
    names = [name for _, _, name in rows]
    for split, mine in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        plain = pa.table({"picture": [c["bytes"] for c in encoded(rows)][mine], "category": names[mine]})
        stream(tmp_path / "x" / f"pets-{split}-00000-of-00001.arrow", plain)
        (tmp_path / "y").mkdir(exist_ok=True)
        with (
            pa.OSFile(str(tmp_path / "y" / f"{split}.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, plain.schema) as out,
        ):
            out.write_table(plain)
    one, two = (datasets.load(f"arrow={tmp_path / name}") for name in "xy")
    for split, other in zip(one.splits, two.splits, strict=True):
        assert split.labels.tolist() == other.labels.tolist() == [0, 0, 1, 1]
        assert [split.open(i).tobytes() for i in range(4)] == [other.open(i).tobytes() for i in range(4)]
    alone = datasets.load(f"arrow={tmp_path}/y/train.arrow", SPLIT)
    assert alone.sizes == {"train": 2, "test": 2}


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_a_test_split_without_labels_beside_val(rows: list[Row], tmp_path: Path, form: str) -> None:
    from pyarrow import parquet as pq

    info = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    (tmp_path / "x").mkdir()

    def write(split: str, mine: list[Row], label: int | None = None) -> None:
        labels = [n if split != "test" else label for _, n, _ in mine]
        table = pa.table({"image": encoded(mine), "label": pa.array(labels, pa.int64())}).replace_schema_metadata(info)
        if form == "arrow":
            stream(tmp_path / "x" / f"pets-{split}.arrow", table)
        else:
            pq.write_table(table, tmp_path / "x" / f"{split}-00000-of-00001.parquet")

    for split, mine in (("train", rows[::2]), ("validation", rows[1::4]), ("test", rows[3::4])):
        write(split, mine, -1)
    for label in (-1, None):
        write("test", rows[3::4], label)
        found = datasets.load(f"arrow={tmp_path}/x")
        assert found.sizes == {"train": 4, "val": 2} and found.train.classes == ("cat", "dog")
        assert found.notes[0] == "test: 2 images without labels are not used"
    for path in (tmp_path / "x").glob("*valid*"):
        path.unlink()
    with pytest.raises(DataError, match="labels in test; got none"):
        datasets.load(f"arrow={tmp_path}/x")


def test_parquet_files_as_the_hub_has_them(rows: list[Row], tmp_path: Path) -> None:
    from pyarrow import parquet as pq

    def write(name: str, mine: list[Row], label: str = "label") -> Path:
        table = pa.table({"image": encoded(mine), label: [n for _, n, _ in mine]})
        info = json.dumps({"info": {"features": {"image": {}, label: FEATURES["label"]}}})
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({"huggingface": info}), tmp_path / name, row_group_size=2)
        return tmp_path / name

    for split, mine in (("train", rows[::2]), ("validation", rows[1::4]), ("test", rows[3::4])):
        write(f"hub/data/{split}-00000-of-00001.parquet", mine)
    found = datasets.load(f"arrow={tmp_path}/hub")
    assert found.train.classes == ("cat", "dog") and found.sizes == {"train": 4, "test": 2}
    assert found.notes[:1] == ("val: 2 images are not used",) and not found.deviations
    with Image.open(rows[4][0]) as image:
        assert found.train.open(2).tobytes() == image.convert("RGB").tobytes() and found.train.labels[2] == 1
    write("one/all.parquet", rows, label="fine_label")
    with pytest.raises(DataError, match=r"called label or labels.*--label-column"):
        datasets.load(f"arrow={tmp_path}/one", SPLIT)
    part = datasets.load(f"arrow={tmp_path}/one", DataOptions(split=0.25, label_column="fine_label"))
    assert part.sizes == {"train": 6, "test": 2} and part.test.open(0).size == (20, 16)
    with pytest.raises(DataError, match=r"got images of no named split"):
        datasets.load(f"arrow={tmp_path}/one", DataOptions(label_column="fine_label"))


def test_columns_that_are_asked(rows: list[Row], tmp_path: Path) -> None:
    fine = [index % 2 for index in range(8)]
    features = {**FEATURES, "fine": {"names": ["a", "b"], "_type": "ClassLabel"}}
    root = write_saved(tmp_path / "saved", rows, extra={"fine": fine, "other": encoded(rows)}, features=features)
    with pytest.raises(DataError, match=r"one column of encoded images; got image, other;.*--path-column image"):
        datasets.load(f"arrow={root}", SPLIT)
    with pytest.raises(DataError, match=r"one column of labels; got label, fine;.*--label-column label"):
        datasets.load(f"arrow={root}", DataOptions(split=0.5, path_column="image"))
    found = datasets.load(f"arrow={root}", DataOptions(split=0.5, path_column="other", label_column="fine"))
    assert found.train.classes == ("a", "b")
    with pytest.raises(DataError, match="encoded images in 'fine'; got int64"):
        datasets.load(f"arrow={root}", DataOptions(split=0.5, path_column="fine", label_column="fine"))


def test_an_image_without_bytes_is_named(rows: list[Row], tmp_path: Path) -> None:
    cells = [*encoded(rows)[:7], None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = stream(tmp_path / "x.arrow", pa.table({"image": pa.array(cells, kind), "label": [0, 1] * 4}))
    found = datasets.load(f"arrow={path}", SPLIT)
    [split] = [s for s in found.splits if s.empty]
    assert split.empty == ("x.arrow#7",)
    with pytest.raises(DataError, match=r"no bytes; where: .*x.arrow#7"):
        split.open(list(split.files or ()).index("x.arrow#7"))


def bad(folder: Path, rows: list[Row], case: str) -> str:
    """A folder or file with one thing wrong; what is said of it."""
    if case in ("label -1", "a label too large", "no label", "half a label"):
        value = {"label -1": -1, "a label too large": 2, "no label": None, "half a label": 0.5}[case]
        labels = pa.array([value, *([0, 1] * 3), 1], pa.float64() if case == "half a label" else pa.int64())
        table = pa.table({"image": encoded(rows), "label": labels})
        info = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
        stream(folder / "x.arrow", table.replace_schema_metadata(info))
        if case == "label -1":
            return r"labels 0 to 1; got label -1 \(no label\)"
        return "labels 0 to 1; got label 2" if value == 2 else "whole numbers or text; got .* in row 0"
    if case == "paths alone":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = [{"bytes": None, "path": str(file)} for file, _, _ in rows]
        stream(folder / "x.arrow", pa.table({"image": pa.array(cells, kind), "label": [0] * 8}))
        return "images inside the file; got none; only paths"
    if case == "pixels in lists":
        stream(folder / "x.arrow", pa.table({"image": [[[1, 2]]] * 2, "label": [0, 1]}))
        return "one column of encoded images; got none among image, label"
    if case == "nothing":
        folder.mkdir()
        return "Arrow files; got an empty folder"
    write_saved(folder, rows)
    first = folder / "data-00000-of-00002.arrow"
    state = json.loads((folder / "state.json").read_text())
    if case == "a file missing":
        first.unlink()
    elif case == "a number missing":
        first.unlink()
        (folder / "state.json").unlink()
    elif case == "cut":
        first.write_bytes(first.read_bytes()[:-2000])
    elif case == "the end missing":
        first.write_bytes(first.read_bytes()[:-8])
    elif case == "an empty file":
        first.write_bytes(b"")
    elif case == "another file":
        first.write_bytes(b"<!DOCTYPE html>" * 100)
    elif case == "JSON damaged":
        (folder / "state.json").write_text('{"_data_files"')
    elif case == "JSON of another kind":
        (folder / "dataset_info.json").write_text("[]")
    elif case == "a mapping of rows":
        (folder / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "i.arrow"}]}))
    elif case == "out of the folder":
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../x.arrow"}]}))
    elif case == "other classes":
        more = write_saved(folder / "more", rows, features={**FEATURES, "label": {}})
        shutil.copy(more / first.name, folder / "y.arrow")
        for name in ("state.json", "dataset_info.json"):
            (folder / name).unlink()
    return {
        "a file missing": "the Arrow files of the split; got no data-00000-of-00002.arrow",
        "a number missing": "2 files data-.*; got 1, without number 0",
        "cut": "a whole Arrow file; got a stream without its end",
        "the end missing": "a whole Arrow file; got a stream without its end",
        "an empty file": "a whole Arrow file",
        "another file": "a whole Arrow file",
        "JSON damaged": "a JSON object.*where: .*state.json",
        "JSON of another kind": "a JSON object; got a list",
        "a mapping of rows": "rows in their order.*flatten_indices",
        "out of the folder": r"names of Arrow files; got \[\{'filename': '\.\./\.\./x.arrow'",
        "other classes": "the same classes in each file",
    }[case]


CASES = (
    "label -1", "a label too large", "no label", "half a label", "paths alone", "pixels in lists", "nothing",
    "a file missing", "a number missing", "cut", "the end missing", "an empty file", "another file", "JSON damaged",
    "JSON of another kind", "a mapping of rows", "out of the folder", "other classes",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(rows: list[Row], tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "saved"
    with pytest.raises(DataError, match=bad(folder, rows, case)) as caught:
        datasets.load(f"arrow={folder}", SPLIT)
    assert caught.value.do
    assert cli.main(["run", "pixels:8", "--data", f"arrow={folder}", "--split", "0.5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_names_that_are_refused(rows: list[Row], tmp_path: Path) -> None:
    write_saved(tmp_path / "a", rows)
    for word, says in (
        (f"{tmp_path}/none", "a folder or an Arrow file; got no such file"),
        (f"{tmp_path}/a", "got images of no named split"),
        (f"{tmp_path}/a,{tmp_path}/a,{tmp_path}/a", "got 3 names"),
        (f"{tmp_path}/a,{tmp_path}/a", "each file once"),
    ):
        with pytest.raises(DataError, match=says):
            datasets.load(f"arrow={word}")
    write_saved_splits(tmp_path / "d", {"unsupervised": rows})
    with pytest.raises(DataError, match="splits called train, validation or test; got unsupervised"):
        datasets.load(f"arrow={tmp_path}/d")
    (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["../a"]}')
    with pytest.raises(DataError, match="splits"):
        datasets.load(f"arrow={tmp_path}/d")


def test_without_pyarrow(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_saved(tmp_path / "saved", rows)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"pip install 'evaltk\[arrow\]'"):
        datasets.load(f"arrow={root}", SPLIT)


def test_whole_floating_point_labels_are_integers(rows: list[Row], tmp_path: Path) -> None:
    """As pandas makes of integers once one is missing."""
    from pyarrow import parquet as pq

    labels = [float(3 * (name == "dog")) for _, _, name in rows]
    table = pa.table({"image": encoded(rows), "label": labels})
    stream(tmp_path / "x" / "pets.arrow", table)
    (tmp_path / "y").mkdir()
    pq.write_table(table, tmp_path / "y" / "pets.parquet")
    for form in ("x/pets.arrow", "y"):
        found = datasets.load(f"arrow={tmp_path / form}", SPLIT)
        assert found.train.classes == ("0", "3") and sorted(found.train.labels.tolist()) == [0, 0, 1, 1]
