"""evaltk.extract and `evaltk extract`: features in files that others read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchvision
from safetensors import safe_open
from torch import nn

import evaltk
from evaltk import cli
from evaltk.checkpoints import locate, rawfile
from evaltk.errors import EvaltkError, SettingsError
from evaltk.features import export

Build = Callable[..., Path]
LOOKS = {"crop": 16, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture(scope="module")
def few() -> export.Extracted:
    return evaltk.extract("pixels:8", "digits", limit=30)


def test_every_format_reads_back(few: export.Extracted, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    paths = {form: few.save(tmp_path / f"x{form}") for form in export.FORMATS}
    with np.load(paths[".npz"]) as found:  # no pickle in it
        assert np.array_equal(found["x"], few.x) and found["x"].dtype == np.float32 and found["x"].shape == (30, 192)
        assert np.array_equal(found["y"], few.y) and found["y"].dtype == np.int64
        assert tuple(found["ids"]) == few.ids and tuple(found["classes"]) == few.classes == tuple("0123456789")
        told = json.loads(str(found["provenance"]))
    with safe_open(paths[".safetensors"], "np") as found:
        assert np.array_equal(found.get_tensor("x"), few.x) and np.array_equal(found.get_tensor("y"), few.y)
        metadata = found.metadata()
        assert tuple(json.loads(metadata["ids"])) == few.ids and json.loads(metadata["provenance"]) == told
    table = pd.read_parquet(paths[".parquet"])
    assert list(table.columns) == ["id", "label", "class", "x"] and tuple(table["id"]) == few.ids
    assert np.array_equal(np.stack(table["x"].to_list()), few.x) and np.array_equal(table["label"], few.y)
    assert list(table["class"]) == [few.classes[y] for y in few.y]
    assert told["checkpoint"]["name"] == "pixels:8" and told["key"]["split"] == "test" and told["skipped"] == []
    assert told["dataset"]["name"] == "digits" and told["key"]["transform"].startswith("resize 8 bicubic")


def test_names_that_are_no_unicode(few: export.Extracted, tmp_path: Path) -> None:
    """As Linux lets files be called; a path of that kind is told for what it is, not as a damaged file."""
    pytest.importorskip("pyarrow")
    odd = replace(few, ids=("\udcff.png", *few.ids[1:]), classes=("\udcfe", *few.classes[1:]))
    for form in export.FORMATS:
        odd.save(tmp_path / f"x{form}")
    table = pd.read_parquet(tmp_path / "x.parquet")
    assert table["id"][0] == r"\udcff.png" and set(table["class"]) == {r"\udcfe", *few.classes[1:]}
    (tmp_path / "x.safetensors").rename(tmp_path / "\udcff.safetensors")
    with pytest.raises(EvaltkError, match=r"wanted a path in UTF-8.*link to it under another name"):
        rawfile.read(locate.locate(tmp_path / "\udcff.safetensors"))


def test_names_that_will_not_do_are_refused_before_any_work(
    few: export.Extracted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x.csv", "x", "x.npz.gz"):
        with pytest.raises(SettingsError, match=r"a name ending in \.npz"):
            few.save(tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(EvaltkError, match="a folder to write into"):
        few.save(tmp_path / "file" / "x.npz")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"evaltk\[parquet\]"):
        few.save(tmp_path / "x.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_command_writes_what_score_knn_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["extract", "pixels:8", "--data", "digits", "--cache", str(tmp_path / "cache")]
    for split in ("train", "test"):
        assert cli.main([*argv, "--part", split, "--out", str(tmp_path / f"{split}.npz")]) == 0
    assert "797 images of digits test\tD = 192" in capsys.readouterr().out
    argv = ["score", "knn", "--bank", "train.npz", "--labels", "train.npz", "--queries", "test.npz"]
    argv += ["--query-labels", "test.npz", "--k", "10", "--json"]
    assert cli.main([str(tmp_path / a) if a.endswith(".npz") else a for a in argv]) == 0
    scored = json.loads(capsys.readouterr().out)["top1"]["10"]
    measured = evaltk.evaluate("pixels:8", "digits", "knn", settings={"knn": {"k": 10, "choose": 0}})
    assert scored == measured.value("knn", "top1", k=10)


def test_the_command_checks_its_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], few: export.Extracted
) -> None:
    def refused(*more: str) -> str:
        argv = ["extract", "pixels:8", "--data", "digits", "--cache", str(tmp_path / "cache"), *more]
        assert cli.main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    out = str(tmp_path / "x.npz")
    assert "a name ending in" in refused("--out", str(tmp_path / "x.txt"))
    assert "there are: test, train" in refused("--out", out, "--part", "val")
    assert "a folder of images; got no such folder" in refused("--out", out, "--data", "no/such/folder")
    assert "one last block" in refused("--out", out, "--last", "2")
    few.save(out)
    assert "pass --force" in refused("--out", out)
    assert cli.main(["extract", "pixels:8", "--data", "digits", "--limit", "3", "--out", out, "--force", "--json",
                     "--cache", str(tmp_path / "cache")]) == 0  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["width"], told["split"]) == (3, 192, "test")


def test_any_folder_of_images_will_do(image_tree: Build) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    classes = evaltk.extract(net, image_tree({"a": 2, "b/deeper": 1}, name="classes"), transform=LOOKS)
    assert classes.classes == ("a", "b") and classes.y.tolist() == [0, 0, 1] and classes.key.split == "all"
    assert classes.ids == ("classes/a/000.png", "classes/a/001.png", "classes/b/deeper/000.png")
    plain = evaltk.extract(net, str(image_tree({".": 3}, name="plain")), transform=LOOKS)
    assert plain.classes == () and plain.y.tolist() == [-1, -1, -1] and plain.ids == ("000.png", "001.png", "002.png")
    splits = image_tree({"train/a": 2, "val/a": 1}, name="splits")
    assert len(evaltk.extract(net, splits, transform=LOOKS).x) == 1
    assert len(evaltk.extract(net, splits, transform=LOOKS, part="train").x) == 2
    with pytest.raises(SettingsError, match="there are: train, val"):
        evaltk.extract(net, splits, transform=LOOKS, part="test")
    one = torchvision.datasets.ImageFolder(str(splits / "train"))
    assert np.array_equal(
        evaltk.extract(net, one, transform=LOOKS).x, evaltk.extract(net, splits, transform=LOOKS, part="train").x
    )


def test_features_do_not_hang_on_the_folder_they_came_from(few: export.Extracted) -> None:
    assert not isinstance(few.x, np.memmap) and few.x.flags.owndata
    with pytest.raises(SettingsError, match="cls, mean, cls\\+mean or a Recipe"):
        evaltk.extract("pixels:8", "digits", recipe="patches")
