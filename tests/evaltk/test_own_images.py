"""The same images as class folders, table, Arrow files, tar shards and torch Dataset: numbers equal to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_images import rows_of, write_csv, write_saved_splits, write_shards

from evaltk import cli, datasets, results
from evaltk.data import overlap
from evaltk.data.options import DataOptions
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError, SettingsError

pytest.importorskip("pyarrow")

NET = "random:vit_patch4_dim24_depth2_heads3_img16"
Build = Callable[..., Path]
FORMS = ("imagefolder", "csv", "arrow", "wds", "torch")
SMALL = ("--protocols", "knn", "--knn.k", "1", "5")
PLUGIN = """
from torchvision.datasets import ImageFolder
from evaltk.data.torch_datasets import from_torch
from evaltk.datasets import DatasetSpec

def load(root, label="torch"):
    return from_torch(ImageFolder(root / "train"), ImageFolder(root / "test"), name=label)

DATASET = DatasetSpec(name="torch", where="PATH/train, PATH/test", load=load, doc="A torch Dataset.")
"""


@pytest.fixture
def forms(image_tree: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """{form: flags}: the same images in each form. Three classes, noise of different sizes."""
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    root = image_tree({"train/cat": 7, "train/dog": 6, "train/eel": 5, "test/cat": 3, "test/dog": 2, "test/eel": 4})
    splits = {split: rows_of(root / split) for split in ("train", "test")}
    listed = [(file.relative_to(root), name, split) for split, rows in splits.items() for file, _, name in rows]
    write_csv(root / "labels.csv", listed, ("path", "label", "split"))
    write_saved_splits(tmp_path / "saved", splits)
    for split, rows in splits.items():
        write_shards(tmp_path / "shards", split, rows)
    (tmp_path / "torch_plugin.py").write_text(PLUGIN)
    words = {
        "imagefolder": root,
        "csv": root / "labels.csv",
        "arrow": tmp_path / "saved",
        "wds": f"{tmp_path}/shards/train-{{000..003}}.tar,{tmp_path}/shards/test-*.tar",
        "torch": root,
    }
    flags = {form: ["--data", f"pets-{form}:{form}={word}"] for form, word in words.items()}
    flags["torch"] += ["--plugin", str(tmp_path / "torch_plugin.py")]
    return flags


@pytest.fixture(autouse=True)
def _no_plugins_left() -> object:
    from evaltk import plugins

    yield
    plugins.use(())


def evaluated(out: Path, *flags: str) -> tuple[object, ...]:
    """Scores, predictions and features of one run, all to the bit."""
    assert cli.main(["run", NET, *SMALL, *flags, "--out", str(out), "--cache", str(out / "cache"), "-q"]) == 0
    [(path, found)] = results.find(out)
    scores = [(s.metric, s.value, s.n, s.interval, dict(s.at)) for s in found.scores]
    stored = results.read_predictions(path)
    predictions = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in stored.items()}
    features = sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in (out / "cache").rglob("x.npy"))
    assert len(features) == 2
    return scores, predictions, features


@pytest.mark.parametrize("limited", [False, True])
def test_every_form_gives_the_same_numbers(forms: dict[str, list[str]], tmp_path: Path, limited: bool) -> None:
    limit = ["--limit", "6"] if limited else []
    found = {form: evaluated(tmp_path / f"runs-{form}", *flags, *limit) for form, flags in forms.items()}
    for form in FORMS:
        assert found[form] == found["imagefolder"], form
    assert len(found["csv"][0]) > 1  # type: ignore[arg-type]


def test_a_drawn_share_gives_the_same_numbers_too(image_tree: Build, tmp_path: Path) -> None:
    root = image_tree({"cat": 9, "dog": 6})
    rows = rows_of(root)
    write_csv(root / "labels.csv", [(file.relative_to(root), name) for file, _, name in rows], ("path", "label"))
    write_shards(tmp_path / "shards", "pets", rows, form="json")
    words = {"imagefolder": root, "csv": root / "labels.csv", "wds": tmp_path / "shards"}
    draw = ("--split", "0.3", "--seed", "2")
    found = {f: evaluated(tmp_path / f"runs-{f}", "--data", f"p:{f}={w}", *draw) for f, w in words.items()}
    assert found["csv"] == found["wds"] == found["imagefolder"]
    [(_, result)] = results.find(tmp_path / "runs-csv")
    assert [(d.kind, d.text) for d in result.deviations] == [
        (DeviationKind.OWN_SPLIT, "no official split: 0.3 of each class drawn for test, seed 2")
    ]
    assert result.data.sizes == {"train": 10, "test": 5}
    draws = [DataOptions(split=s, seed=n) for s, n in ((0.3, 2), (0.3, 3), (0.31, 2))]
    assert len({datasets.load(f"csv={root / 'labels.csv'}", one).fingerprint for one in draws}) == 3


@pytest.mark.parametrize("form", ["csv", "arrow", "wds"])
def test_every_command_takes_them(
    forms: dict[str, list[str]], form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ("--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"))
    word = forms[form][1]
    assert cli.main(["datasets", "check", word]) == 0
    said = capsys.readouterr().out
    assert "train 18 images, test 9 images" in said and "3 classes" in said and "no image of test is in train" in said
    assert cli.main(["plan", NET, *SMALL, "--data", word, *kept]) == 0
    assert "18 images" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    for _ in range(2):
        assert cli.main(["run", NET, *SMALL, "--data", word, *kept, "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["skipped"], second["skipped"]) == (False, True)
    assert cli.main(["ls", "datasets"]) == 0
    assert form in capsys.readouterr().out


@pytest.mark.parametrize("form", ["csv", "arrow", "wds"])
def test_changed_files_are_noticed(forms: dict[str, list[str]], form: str, tmp_path: Path) -> None:
    word = forms[form][1]
    before = datasets.load(word)
    assert datasets.load(word).fingerprint == before.fingerprint and datasets.load(word).stamp == before.stamp
    one = {
        "csv": tmp_path / "data/train/cat/000.png",
        "arrow": tmp_path / "saved/train/data-00000-of-00002.arrow",
        "wds": tmp_path / "shards/train-001.tar",
    }[form]

    os.utime(one, ns=(1, 1))
    assert datasets.load(word).fingerprint == before.fingerprint and datasets.load(word).stamp != before.stamp


@pytest.mark.parametrize("form", ["csv", "arrow", "wds"])
def test_fingerprints_travel(forms: dict[str, list[str]], form: str, tmp_path: Path) -> None:
    before = datasets.load(forms[form][1]).fingerprint
    (tmp_path / "elsewhere").mkdir()
    for name in ("data", "saved", "shards"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert datasets.load(forms[form][1].replace(str(tmp_path), f"{tmp_path}/elsewhere")).fingerprint == before


@pytest.mark.parametrize("form", ["arrow", "wds"])
def test_images_are_read_in_any_order_and_by_other_processes(forms: dict[str, list[str]], form: str) -> None:
    wanted, found = (datasets.load(forms[f][1]).train for f in ("imagefolder", form))
    again = pickle.loads(pickle.dumps(found))
    for i in (17, 0, 9, 10, 5, 9):
        assert wanted.open(i).tobytes() == found.open(i).tobytes() == again.open(i).tobytes()
    part = found.taken(np.array([16, 3, 8]), name="part", fingerprint="x")
    assert [part.open(i).tobytes() for i in range(3)] == [wanted.open(i).tobytes() for i in (16, 3, 8)]
    assert part.image_id(0) == found.image_id(16)
    few = part.taken(np.array([2, 0]), name="few", fingerprint="y")
    assert few.open(0).tobytes() == wanted.open(8).tobytes()


@pytest.mark.parametrize("form", ["csv", "arrow", "wds"])
def test_a_damaged_image_is_named_and_can_be_left_out(
    image_tree: Build, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_tree({"train/cat": 6, "train/dog": 6, "test/cat": 2, "test/dog": 2})
    (root / "train/cat/003.png").write_bytes((root / "train/cat/003.png").read_bytes()[:60])
    splits = {split: rows_of(root / split) for split in ("train", "test")}
    listed = [(file.relative_to(root), name, split) for split, rows in splits.items() for file, _, name in rows]
    write_csv(tmp_path / "data/labels.csv", listed, ("path", "label", "split"))
    write_saved_splits(tmp_path / "saved", splits)
    for split, rows in splits.items():
        write_shards(tmp_path / "shards", split, rows)
    word = {"csv": root / "labels.csv", "arrow": tmp_path / "saved", "wds": tmp_path / "shards"}[form]
    name = {"csv": "train/cat/003.png", "arrow": "train/data-00000-of-00002.arrow#3", "wds": "train-000.tar/000003.png"}
    command = ["run", NET, *SMALL, "--data", f"p:{form}={word}", "--out", str(tmp_path / "r"), "--cache", str(tmp_path)]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert name[form] in said and "--skip-bad-images" in said and said.count("\n") == 1
    assert cli.main([*command, "--skip-bad-images", "1"]) == 0
    [(_, result)] = results.find(tmp_path / "r")
    assert [d.kind for d in result.deviations] == [DeviationKind.UNREADABLE_IMAGES]


@pytest.mark.parametrize("form", ["csv", "arrow", "wds"])
def test_images_in_both_splits_are_found(image_tree: Build, form: str, tmp_path: Path) -> None:
    root = image_tree({"train/cat": 3, "train/dog": 3, "test/cat": 1, "test/dog": 1})
    (root / "test/cat/000.png").write_bytes((root / "train/cat/001.png").read_bytes())
    splits = {split: rows_of(root / split) for split in ("train", "test")}
    listed = [(file.relative_to(root), name, split) for split, rows in splits.items() for file, _, name in rows]
    write_csv(root / "labels.csv", listed, ("path", "label", "split"))
    write_saved_splits(tmp_path / "saved", splits)
    for split, rows in splits.items():
        write_shards(tmp_path / "shards", split, rows)
    word = {"csv": root / "labels.csv", "arrow": tmp_path / "saved", "wds": tmp_path / "shards"}[form]
    with pytest.raises(DataError, match="1 of 2 with the same bytes"):
        overlap.check(datasets.load(f"{form}={word}"))


def test_one_folder_and_what_the_share_says(image_tree: Build, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_tree({"a": 4, "b": 1, "train-like": 2})
    with pytest.raises(DataError, match=r"with --split 0\.2"):
        datasets.load(f"imagefolder={root}")
    found = datasets.load(f"pics:imagefolder={root}", DataOptions(split=0.5))
    assert found.sizes == {"train": 4, "test": 3} and found.notes[:1] == ("not tested, as they have one image only: b",)
    assert found.train.image_id(0).startswith("a/")
    alone = image_tree({"train/a": 4, "train/b": 4}, name="alone")
    inside = datasets.load(f"imagefolder={alone}", DataOptions(split=0.25))
    assert inside.sizes == {"train": 6, "test": 2} and inside.notes[:1] == (
        "train and test are drawn from train/ alone",
    )
    both = image_tree({"train/a": 2, "val/a": 2}, name="both")
    with pytest.raises(DataError, match=r"one folder to split; got train/ and val/.*leave --split out"):
        datasets.load(f"imagefolder={both}", DataOptions(split=0.5))
    with pytest.raises(SettingsError, match="a share between 0 and 1"):
        datasets.load(f"imagefolder={root}", DataOptions(split=1.5))
    for flags in (["--split", "0.2"], ["--path-column", "x"]):
        assert cli.main(["run", NET, "--data", "digits", *flags]) == 2
        said = capsys.readouterr().err
        assert f"for {flags[0]}; got digits" in said and said.count("\n") == 1
