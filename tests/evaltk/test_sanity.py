"""What makes any score meaningless is refused, or noted, for every protocol and in the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaltk import cli, datasets
from evaltk.data import images, sanity
from evaltk.data.images import Dataset
from evaltk.errors import DataError
from evaltk.types import Score

Run = Callable[..., tuple[int, dict[str, Any], str]]
OF_IMAGES = ("knn", "linear", "transfer", "fewshot", "finetune")
FLAGS = {"knn": ["--knn.k", "1"], "linear": ["--linear.epochs", "1", "--linear.lr", "0.1"], "fewshot": []}


def noise(root: Path, classes: str = "ab", train: int = 8, test: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for cls in classes:
        for split, count in (("train", train), ("test", test)):
            (root / split / cls).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / cls / f"{i}.png")
    return root


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """(exit code, the result, stderr) of one protocol on raw pixels."""
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))

    def call(root: Path, protocol: str, *more: str) -> tuple[int, dict[str, Any], str]:
        folders = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
        words = ["run", "pixels:8", "--data", f"d:imagefolder={root}", "--protocols", protocol, "--json", *folders]
        code = cli.main([*words, *more, *FLAGS.get(protocol, [])])
        out, err = capsys.readouterr()
        found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return code, found[0] if found else {}, err

    return call


def messages(run: Run, root: Path, names: tuple[str, ...]) -> set[str]:
    found = set()
    for name in names:
        code, _, err = run(root, name)
        assert code == 2, (name, err)
        found.add(err.strip().splitlines()[-1])
    return found


def test_one_class_is_refused_by_all_protocols_in_the_same_words(tmp_path: Path, run: Run) -> None:
    (said,) = messages(run, noise(tmp_path / "one", "a"), OF_IMAGES)
    assert "wanted training images of two classes or more; got one, a; where: d train" in said


def test_no_training_images_are_refused_by_all_protocols_that_learn(tmp_path: Path, run: Run) -> None:
    root = noise(tmp_path / "data")
    shutil.rmtree(root / "train")
    (said,) = messages(run, root, OF_IMAGES)
    assert "wanted images in train; got none; where: d train" in said


def test_test_images_in_the_bank_are_refused_by_all_protocols(tmp_path: Path, run: Run) -> None:
    root = noise(tmp_path / "data")
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    (said,) = messages(run, root, ("knn", "linear", "transfer", "fewshot"))
    assert "16 of 16 with the same bytes" in said


def test_a_few_shared_images_are_a_deviation_of_every_result(tmp_path: Path, run: Run) -> None:
    root = noise(tmp_path / "data", train=20, test=20)
    shutil.copy(root / "train/a/3.png", root / "test/a/3.png")
    for name in ("knn", "fewshot"):
        code, result, err = run(root, name)
        assert code == 0, err
        kinds = [one["kind"] for one in result["deviations"]]
        assert kinds.count("shared-images") == 1


def test_constant_features_blame_the_images_first(tmp_path: Path, run: Run) -> None:
    root = noise(tmp_path / "data")
    for image in root.rglob("*.png"):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(image)
    for i, image in enumerate(sorted((root / "test").rglob("*.png"))):  # other files, the same pixels
        Image.new("RGB", (8, 9 + i), (9, 9, 9)).save(image)
    (said,) = messages(run, root, ("knn", "transfer"))
    assert "got identical features for all images" in said and "images are all alike" in said


def test_a_result_at_chance_says_so_and_one_above_does_not(tmp_path: Path, run: Run) -> None:
    root = noise(tmp_path / "data", train=20, test=20)
    code, result, err = run(root, "knn")
    assert code == 0 and any(note.startswith("top-1 is at chance") for note in result["notes"]), err
    for split in ("train", "test"):
        for i in range(20):
            path = root / split / "b" / f"{i}.png"
            Image.fromarray(np.asarray(Image.open(path)) // 3).save(path)
    code, result, err = run(root, "knn")
    assert code == 0 and not any("chance" in note for note in result["notes"]), err


def test_chance_is_the_most_frequent_class() -> None:
    pixels, labels = np.zeros((100, 2, 2, 3), dtype=np.uint8), np.array([0] * 90 + [1] * 10)
    split = images.from_arrays("x", "test", pixels, labels, ["a", "b"])
    dataset = Dataset(name="x", train=split, test=split)

    def of(value: float) -> tuple[str, ...]:
        return sanity.chance(dataset, [Score(dataset="x", split="test", metric="top1", value=value, n=100)])

    assert "guessing gives 90.0 %" in of(0.9)[0] and of(0.5) and not of(0.97)
    assert sanity.chance(dataset, []) == ()


def test_a_large_test_split_is_sampled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = noise(tmp_path / "data", train=8, test=20)
    for i in range(8):
        shutil.copy(root / f"train/a/{i}.png", root / f"test/a/{i}.png")
    monkeypatch.setattr(sanity, "MANY", 30)
    monkeypatch.setattr(sanity, "SAMPLE", 20)
    with pytest.raises(DataError, match=r"of 20 with the same bytes"):
        sanity.shared_images(datasets.load(f"d:imagefolder={root}"))


def test_a_published_head_needs_no_training_images(tmp_path: Path, run: Run) -> None:
    root = noise(tmp_path / "data")
    shutil.move(root / "test", root / "val")
    for cls, level in (("a", 20), ("b", 220)):
        for image in (root / "val" / cls).iterdir():
            Image.new("RGB", (8, 8), (level,) * 3).save(image)
    weight = torch.stack([torch.full((192,), -1.0), torch.full((192,), 1.0)])
    torch.save({"weight": weight, "bias": torch.zeros(2)}, tmp_path / "head.pth")
    shutil.rmtree(root / "train")
    code, result, err = run(root, "linear", "--linear.head", str(tmp_path / "head.pth"))
    assert code == 0, err
    assert max(score["value"] for score in result["scores"] if score["metric"] == "head_top1") == 1.0
    assert "val: 8 images of 2 classes" in result["notes"]


def test_copies_saved_anew_are_told_by_knn(tmp_path: Path, run: Run) -> None:
    root = noise(tmp_path / "noise")
    assert not [note for note in run(root, "knn")[1]["notes"] if "copies" in note]
    for image in root.glob("test/*/0.png"):
        Image.open(root / "train" / image.parent.name / "5.png").save(image.with_suffix(".bmp"))
        image.unlink()
    notes = run(root, "knn")[1]["notes"]
    assert "2 of 8 test images have the features of a training image: are they copies of these in other files?" in notes
