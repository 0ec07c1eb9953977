"""Which images a run trains on: those that evaluation finds; what it leaves out; unreadable ones, counted once each."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import SETS, lines, photos, train

from evaltk import datasets
from evaltk.cli import main
from evaltk.data.options import DataOptions
from evaltk.errors import DataError, SettingsError
from pretrain import loop
from pretrain.data import sources


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Class folders as people have them: depths, links, hidden files, EXIF, 16 bits, other formats."""
    root = photos(tmp_path / "photos" / "train")
    Image.fromarray(np.full((9, 9, 4), 40, np.uint8)).save(root / "a" / "clear.png")
    ramp = np.linspace(0, 65535, 81).astype(np.uint16).reshape(9, 9)
    Image.fromarray(ramp).save(root / "a" / "deep.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).convert("P").save(root / "b" / "still.GIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "b" / "deeper" / "still").mkdir(parents=True)
    Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3)).save(root / "b/deeper/still/turned.jpg", exif=exif)
    elsewhere = photos(tmp_path / "elsewhere", each=1)
    (root / "a" / "link").symlink_to(elsewhere / "a", target_is_directory=True)
    for name in (".hidden.png", "._00.png", "notes.txt", "x.heic"):
        shutil.copy(root / "a" / "00.png", root / "a" / name)
    for folder in ("@eaDir", ".cache", "__MACOSX"):
        (root / "b" / folder).mkdir()
        shutil.copy(root / "a" / "00.png", root / "b" / folder / "thumb.png")
    shutil.copytree(photos(tmp_path / "more", each=1), tmp_path / "photos" / "test")
    return tmp_path / "photos"


def test_a_folder_trains_on_the_images_that_it_is_evaluated_on(mixed: Path, tmp_path: Path) -> None:
    evaluated = datasets.load(f"mine:imagefolder={mixed}", DataOptions()).train
    folder = sources.open_source(f"folder={mixed / 'train'}")
    split = sources.open_source(f"imagefolder={mixed}")
    ours = {folder.image_id(i): np.asarray(folder.open(i)) for i in range(len(folder))}
    for other in (split, evaluated):
        theirs = {other.image_id(i).removeprefix("train/"): np.asarray(other.open(i)) for i in range(len(other))}
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)
    assert {"a/link/00.png", "b/deeper/still/turned.jpg", "b/still.GIF", "a/deep.png"} <= ours.keys()
    assert ours["b/deeper/still/turned.jpg"].shape == (8, 4, 3)  # turned as a viewer turns it
    assert len(np.unique(ours["a/deep.png"])) == 81  # 16 bits scaled, not clipped
    assert dict(folder.left) == dict(evaluated.left) == {"hidden": 5, ".txt": 1, ".heic": 1}
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for here, _, names in os.walk(mixed / "train", followlinks=True):
            for name in names:
                archive.write(Path(here, name), Path(here, name).relative_to(mixed / "train"))
    zipped = sources.open_source(f"zip={tmp_path / 'all.zip'}")
    assert [zipped.image_id(i) for i in range(len(zipped))] == sorted(ours)
    assert all(np.array_equal(np.asarray(zipped.open(i)), ours[zipped.image_id(i)]) for i in range(len(zipped)))
    assert dict(zipped.left) == dict(folder.left)


def test_a_run_says_what_it_found_and_what_it_left_out(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = f"folder={mixed}"
    argv = [
        "pretrain",
        "cifar10_dino",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "o"),
        "--set",
        *SETS,
        "optim.epochs=1",
    ]
    assert main([*argv, "--data", word]) == 0
    said = capsys.readouterr().err
    assert f"training on 19 images in {word}, 6 classes; left out: 1 .heic, 1 .txt, 5 hidden" in said
    assert "images in test/ are trained on, too" in said
    argv[argv.index("--out") + 1] = str(tmp_path / "p")
    assert main([*argv, "--data", f"imagefolder={mixed}"]) == 0
    said = capsys.readouterr().err
    assert "17 images in imagefolder=" in said and "(train), 2 classes; left out: 1 .heic, 1 .txt, 5 hidden" in said
    assert "trained on, too" not in said


def test_images_of_ones_own_are_named_as_for_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path / "d")
    argv = [
        "pretrain",
        "cifar10_dino",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "o"),
        "--set",
        *SETS,
        "optim.epochs=1",
    ]
    word = f"mine:imagefolder={root}"
    assert main([*argv, "--data", word, "--split", "0.34", "--show", "as-reference"]) == 0
    assert "training on 8 images" in capsys.readouterr().err
    stored = json.loads((tmp_path / "o" / "recipe.json").read_text())["data"]
    assert (stored["split"], stored["show"], stored["max_pixels"]) == (0.34, "as-reference", None)
    test = datasets.load(
        word, DataOptions(split=0.34)
    ).test  # evaluated later, with the same flags: nothing seen before
    trained = sources.open_source(word, DataOptions(split=0.34))
    assert not {test.image_id(i) for i in range(len(test))} & {trained.image_id(i) for i in range(len(trained))}
    assert main([*argv, "--data", word]) == 2  # it cannot be evaluated without a split either
    assert "--split 0.2" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=r"got --split"):
        sources.open_source(f"folder={root}", DataOptions(split=0.2))
    with pytest.raises(SettingsError, match="--split"):
        sources.open_source("digits", DataOptions(split=0.2))


def test_a_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"none, but 1 \.heic"):
        sources.open_source(f"folder={tmp_path / 'd'}")
    (tmp_path / "d" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="broken link"):
        sources.open_source(f"folder={tmp_path / 'd'}")


def damage(folder: Path, *names: str) -> None:
    for name in names:
        path = next(folder.rglob(name))
        path.write_bytes(path.read_bytes()[:60])


def test_an_unreadable_image_counts_once_in_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data, sets = photos(tmp_path / "d"), ["data.skip_bad_images=1", "run.knn=12", "run.monitor_every=1"]
    damage(data, "03.png")
    assert train(data, tmp_path / "whole", *sets) == 0  # three epochs and ten looks of the monitor
    # By identity: where a command ran before, the logger has caplog's handler besides its parent's.
    assert len({id(record) for record in caplog.records if "03.png" in record.message}) == 1
    assert lines(tmp_path / "whole")[-1]["unreadable"] == 1
    real = loop.train_step

    def stopping(*args: Any, **kw: Any) -> Any:
        record = real(*args, **kw)
        return dataclasses.replace(record, stop=record.step == 4)

    monkeypatch.setattr(loop, "train_step", stopping)
    assert train(data, tmp_path / "parts", *sets) == loop.REQUEUE
    monkeypatch.setattr(loop, "train_step", real)
    damage(data, "08.png")  # the count does not start again
    with pytest.raises(DataError, match="at most 1 unreadable images; got 2"):
        train(data, tmp_path / "parts", *sets)
    with pytest.raises(DataError, match="got 2"):  # nor does another start
        train(data, tmp_path / "parts", *sets)
    assert train(data, tmp_path / "parts", "data.skip_bad_images=2", *sets[1:]) == 0


def test_the_monitor_counts_images_as_training_does(tmp_path: Path) -> None:
    data = photos(tmp_path / "d")
    damage(data, "01.png", "03.png", "05.png", "07.png")
    with pytest.raises(DataError, match="at most 3 unreadable images; got 4"):
        train(data, tmp_path / "out", "data.skip_bad_images=3", "run.knn=12", "optim.batch=1", "optim.epochs=1")
    assert lines(tmp_path / "out")[-1]["step"] == 0  # the first look at all of them


def test_restored_images_count_no_longer_and_the_run_is_as_if_undisturbed(tmp_path: Path) -> None:
    data = photos(tmp_path / "d")
    assert train(data, tmp_path / "whole") == 0
    kept = (data / "a" / "02.png").read_bytes()
    damage(data, "02.png")
    with pytest.raises(DataError, match=r"at most 0 unreadable images; got 1; where: a/02\.png"):
        train(data, tmp_path / "out")
    (data / "a" / "02.png").write_bytes(kept)
    assert train(data, tmp_path / "out") == 0
    one, two = (torch.load(tmp_path / o / "checkpoint.pth", weights_only=True)["teacher"] for o in ("whole", "out"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_empty_files_are_known_before_the_first_step(tmp_path: Path) -> None:
    data = photos(tmp_path / "d")
    (data / "b" / "09.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"got 1; where: b/09\.png"):
        train(data, tmp_path / "out")
    assert not lines(tmp_path / "out")
