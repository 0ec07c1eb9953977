"""Tables of paths and labels: how they are written, columns, splits, classes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from own_images import write_csv

from evaltk import cli, datasets
from evaltk.data.options import DataOptions
from evaltk.errors import DataError, EvaltkError

Build = Callable[..., Path]
SPLIT = DataOptions(split=0.5)


@pytest.fixture
def root(image_tree: Build) -> Path:
    return image_tree({"cat": 4, "dog": 4})


def four(root: Path, text: str, name: str = "list.csv") -> Path:
    (root / name).write_text(text, encoding="utf-8", newline="")
    return root / name


PLAIN = "path,label\ncat/000.png,cat\ncat/001.png,cat\ndog/000.png,dog\ndog/001.png,dog\n"
WRITTEN = {
    "plain": PLAIN,
    "with a BOM and Windows' line ends": "\ufeff" + PLAIN.replace("\n", "\r\n"),
    "with quotes": '"path", "label"\n"cat/000.png","cat"\ncat/001.png,"cat"\ndog/000.png,dog\n"dog/001.png",dog',
    "with blanks": "path , label\n cat/000.png, cat\ncat/001.png ,cat \n\ndog/000.png,dog\n , \ndog/001.png,dog\n\n",
    "by semicolons": PLAIN.replace(",", ";"),
    "with Windows' paths": PLAIN.replace("/", "\\"),
    "with other columns": "id,Image,notes,Class\n" + "".join(f'1,{n[:11]},"a, b",{n[:3]}\n' for n in PLAIN.split()[1:]),
    "with ./ and ..": PLAIN.replace("cat/0", "./dog/../cat/0"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITTEN)
def test_ways_to_write_a_table(root: Path, case: str) -> None:
    found = datasets.load(f"csv={four(root, WRITTEN[case])}", SPLIT)
    assert found.train.classes == ("cat", "dog") and found.sizes == {"train": 2, "test": 2}
    ids = {split.image_id(i): int(split.labels[i]) for split in found.splits for i in range(2)}
    assert ids == {"cat/000.png": 0, "cat/001.png": 0, "dog/000.png": 1, "dog/001.png": 1}
    assert found.fingerprint == datasets.load(f"csv={four(root, PLAIN)}", SPLIT).fingerprint


def test_tabs_and_parquet(root: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    wanted = datasets.load(f"csv={four(root, PLAIN)}", SPLIT).fingerprint
    tsv = four(root, PLAIN.replace(",", "\t"), "list.tsv")
    assert datasets.load(f"csv={tsv}", SPLIT).fingerprint == wanted
    rows = [line.split(",") for line in PLAIN.split()[1:]]
    table = pa.table({"path": [r[0] for r in rows], "label": [r[1] for r in rows], "box": [[1, 2]] * 4})
    pq.write_table(table, root / "list.parquet")
    assert datasets.load(f"csv={root / 'list.parquet'}", SPLIT).fingerprint == wanted
    pq.write_table(pa.table({"path": [r[0] for r in rows], "label": [0.0, None, 1.0, 1.0]}), root / "list.parquet")
    with pytest.raises(DataError, match="1 empty or NaN, the first in line 1"):
        datasets.load(f"csv={root / 'list.parquet'}", SPLIT)
    pq.write_table(pa.table({"image": [{"bytes": b"", "path": ""}], "label": [0]}), root / "list.parquet")
    with pytest.raises(DataError, match=r"columns of paths and labels.*arrow=FOLDER"):
        datasets.load(f"csv={root / 'list.parquet'}", SPLIT)
    (root / "list.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="a parquet file"):
        datasets.load(f"csv={root / 'list.parquet'}", SPLIT)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "10", "9"], ("9", "10")),  # by value
        (["1.0", "0.0", "1.0", "0.0"], ("0", "1")),  # as pandas writes them
        (["1.0", "0", "1", "0"], ("0", "1")),
        (["-1", "1", "-1", "1"], ("-1", "1")),
        (["10", "9", "b", "b"], ("10", "9", "b")),  # as text
        (["Zoo", "ant", "Zoo", "ant"], ("Zoo", "ant")),
        (["a b", "a", "a b", "a"], ("a", "a b")),
        (["9" * 5000, "1"] * 2, ("1", "9" * 5000)),
    ],
)
def test_order_of_classes(root: Path, labels: list[str], classes: tuple[str, ...]) -> None:
    rows = [(f"cat/00{i}.png", label) for i, label in enumerate(labels)]
    found = datasets.load(f"csv={write_csv(root / 'list.csv', rows, ('path', 'label'))}", SPLIT)
    assert found.train.classes == classes


def test_names_that_may_mean_a_missing_label_are_told(root: Path) -> None:
    rows = [(f"{c}/00{i}.png", "None" if c == "dog" else "cat") for c in ("cat", "dog") for i in range(2)]
    found = datasets.load(f"csv={write_csv(root / 'list.csv', rows, ('path', 'label'))}", SPLIT)
    assert "a class is called None: are these images without a label?" in found.notes


@pytest.mark.parametrize("label", ["", "NaN", "-1"])
def test_test_rows_without_labels_beside_val(root: Path, label: str) -> None:
    train = [("cat/000.png", "cat", "train"), ("dog/000.png", "dog", "train")]
    val, test = [("cat/003.png", "cat", "val")], [("dog/001.png", label, "test"), ("dog/002.png", label, "test")]
    head = ("path", "label", "split")
    found = datasets.load(f"csv={write_csv(root / 'all.csv', [*test, *val, *train], head)}")
    assert found.sizes == {"train": 2, "val": 1} and found.train.classes == ("cat", "dog")
    assert found.notes[0] == "test: 2 images without labels are not used"
    with pytest.raises(DataError, match="labels in test; got none"):
        datasets.load(f"csv={write_csv(root / 'two.csv', [*test, *train], head)}")
    half = [*train, *val, ("dog/001.png", "", "test"), ("dog/002.png", "dog", "test")]
    with pytest.raises(DataError, match=r"1 empty or NaN, the first in line 5"):
        datasets.load(f"csv={write_csv(root / 'half.csv', half, head)}")


def test_splits_by_column_by_files_and_by_folder(root: Path) -> None:
    train = [(f"cat/00{i}.png", "cat", "train") for i in range(3)] + [("dog/000.png", "dog", "Training")]
    val, test = [("cat/003.png", "cat", "valid")], [("dog/001.png", "dog", "test"), ("dog/002.png", "dog", "test")]
    head = ("path", "label", "split")
    whole = datasets.load(f"csv={write_csv(root / 'all.csv', [*test, *val, *train], head)}")
    assert whole.sizes == {"train": 4, "test": 2} and whole.notes[:1] == ("val: 1 images are not used",)
    without = datasets.load(f"csv={write_csv(root / 'few.csv', [*val, *train], head)}")
    assert without.sizes == {"train": 4, "val": 1} or without.test.name == "val"
    two = [write_csv(root / f"{name}.csv", rows, head) for name, rows in (("a", train), ("b", test))]
    pair = datasets.load(f"csv={two[0]},{two[1]}")
    assert pair.fingerprint == whole.fingerprint
    for name, rows in (("train", train), ("val", val), ("test", test)):
        write_csv(root / "lists" / f"{name}.csv", [(f"../{path}", label) for path, label, _ in rows], ("path", "label"))
    below = datasets.load(f"csv={root / 'lists'}")
    assert below.fingerprint == whole.fingerprint and below.train.root == root
    other = write_csv(root / "other.csv", [(p, c, s) for p, c, s in (*train, *test)], ("p", "c", "part"))
    columns = DataOptions(path_column="p", label_column="c", split_column="part")
    assert datasets.load(f"csv={other}", columns).fingerprint == whole.fingerprint


def test_absolute_paths(root: Path, tmp_path: Path) -> None:
    lines = [f"{root}/{line}" for line in PLAIN.split()[1:]]
    away = four(tmp_path, "path,label\n" + "\n".join(lines))
    found = datasets.load(f"csv={away}", SPLIT)
    assert found.train.image_id(0).startswith("data/cat/") and found.train.open(0).size == (20, 16)
    far = four(tmp_path / "data/cat", "path,label\n" + "\n".join(lines))
    assert (
        datasets.load(f"csv={far}", SPLIT).fingerprint == datasets.load(f"csv={four(root, PLAIN)}", SPLIT).fingerprint
    )


WRONG = {
    "nothing": ("", "an empty file"),
    "a header alone": ("path,label\n", "rows below the names of the columns; got none"),
    "no header": ("cat/000.png,cat\ncat/001.png,cat\n", "column of paths; got columns cat/000.png, cat;.*--path"),
    "no labels": ("path,name\ncat/000.png,cat\n", "got columns path, name;.*--label-column NAME"),
    "two columns of labels": ("path,label,class\ncat/000.png,0,cat\n", "got label, class;.*--label-column label"),
    "a column twice": ("path,label,label\ncat/000.png,0,1\n", "got label, label"),
    "an empty label": (PLAIN + "cat/002.png,\n", "row of 'label'; got 1 empty or NaN, the first in line 6"),
    "NaN": (PLAIN + "cat/002.png,NaN\n", "the first in line 6"),
    "an empty path": (PLAIN + ",cat\n", "row of 'path'; got 1 empty.*line 6"),
    "too few cells": (PLAIN + "cat/002.png\n", "2 cells in each line; got 1 cells in line 6"),
    "a comma in a name": (PLAIN + "cat/002.png,cat,dog\n", "got 3 cells in line 6.*quote"),
    "an open quote": (PLAIN + '"cat/002.png,cat\n', "a CSV or TSV file; got line 6"),
    "missing files": (PLAIN + "cat/9.png,cat\ncat/8.png,cat\n", "2 missing: cat/9.png, cat/8.png"),
    "a folder": (PLAIN + "cat,cat\n", r"cat \(a folder\)"),
    "an address": (PLAIN + "https://x.org/1.png,cat\n", "download them first"),
    "nobody's home": (PLAIN + "~nobody-there/1.png,cat\n", "1 missing: ~nobody-there/1.png"),
    "a drive": (PLAIN + "C:\\pics\\1.png,cat\n", "without the drive"),
    "a file twice": (PLAIN + "./cat/000.png,dog\n", r"000.png twice in all \(line 2 of list.csv, line 6 of list.csv\)"),
    "mixed spellings": ("path,label\ncat/000.png,1\ncat/001.png,01\n", "one spelling for each label; got '01' and '1'"),
    "rows of no label": ("path,label\ncat/000.png,0\ncat/001.png,1\ndog/000.png,2\ncat/002.png,-1\n", "none: 1 in all"),
    "not UTF-8": ("path,label\ncat/000.png,caf\udce9\n", "a table in UTF-8"),
    "a NUL": (PLAIN + "cat/\0.png,cat\n", "1 missing|NUL|line"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_tables_that_are_refused(root: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, says = WRONG[case]
    (root / "list.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=says) as caught:
        datasets.load(f"csv={root / 'list.csv'}", SPLIT)
    assert caught.value.do
    assert cli.main(["run", "pixels:8", "--data", f"csv={root / 'list.csv'}", "--split", "0.5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


SPLITS = [
    ("path,label,split\ncat/000.png,a,train\ncat/001.png,a,holdout\n", {}, "got 'holdout'.*TRAIN,TEST"),
    ("path,label,split\ncat/000.png,a,train\ncat/000.png,a,test\n", {}, "000.png in train and in test"),
    ("path,label,split\ncat/000.png,a,train\n", {}, "got only train;.*--split 0.2"),
    ("path,label\ncat/000.png,a\n", {}, "got images of no named split;.*--split 0.2"),
    ("path,label,split\ncat/000.png,a,train\ncat/001.png,b,test\n", {}, "classes that can be learnt; got 1 others: b"),
    ("path,label,split\ncat/000.png,a,train\ncat/001.png,a,test\n", {"split": 0.5}, "leave --split out"),
    ("path,label\ncat/000.png,a\ncat/001.png,a\n", {"split": 2.0}, "a share between 0 and 1"),
    ("path,label\ncat/000.png,a\n", {"path_column": "file"}, "a column 'file'; got columns path, label"),
    ("path,label\ncat/000.png,a\n", {"split_column": "fold"}, "a column 'fold'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "asked", "says"), SPLITS)
def test_splits_that_are_refused(root: Path, text: str, asked: dict[str, object], says: str) -> None:
    with pytest.raises(EvaltkError, match=says) as caught:
        datasets.load(f"csv={four(root, text)}", DataOptions(**asked))  # type: ignore[arg-type]
    assert caught.value.do and "\n" not in str(caught.value)


def test_files_that_are_refused(root: Path) -> None:
    for word, says in (
        (f"{root}/none.csv", "got no such file"),
        (f"{root}/cat", "one table per split.*got none"),
        (f"{four(root, PLAIN, 'a.csv')},{root}/none.csv", "no such file; where: .*none.csv"),
        (f"{root}/a.csv,{root}/a.csv,{root}/a.csv", "got 3 files"),
        (f"{root}/a.csv,{root}/a.csv", "in train and in test"),
        ("n" * 300 + ".csv", "the files of csv; got .*too long"),
        ("~nobody-there/a.csv", "a path; got '~nobody-there/a.csv'"),
    ):
        with pytest.raises(DataError, match=says):
            datasets.load(f"csv={word}")
    four(root, "path,label,split\ncat/000.png,a,test\n", "train.csv")
    four(root, "path,label\ncat/001.png,a\n", "test.csv")
    (root / "a.csv").unlink()
    with pytest.raises(DataError, match="train in all of 'split'; got test in line 2"):
        datasets.load(f"csv={root}")
    four(root, PLAIN, "train-test.csv")
    with pytest.raises(DataError, match="names that say one of train, val and test; got train-test"):
        datasets.load(f"csv={root}")


def test_a_comma_in_the_name_of_a_table(root: Path) -> None:
    assert len(datasets.load(f"csv={four(root, PLAIN, 'a,b.csv')}", SPLIT).test) == 2
