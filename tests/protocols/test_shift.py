"""The shift protocol by the real command: sets mapped by name, accuracy, calibration and mean corruption error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_inputs import DEIT, one_colour_per_class

import evaltk
from evaltk import cli, results
from evaltk.data import images
from evaltk.data.images import Dataset, Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, SettingsError
from evaltk.types import FeatureKey, Features, Result
from protocols import shift
from protocols.shift.sets import ALEXNET, mapped, mean_corruption_error

KEY = FeatureKey(
    sha256="0", dataset="0", split="x", transform="", recipe="", precision="fp32", position="dino", version=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = one_colour_per_class(tmp_path_factory.mktemp("shift"), train=6, test=4, noise=150)
    other = root / "other"
    for i, name in ((1, "class 1"), (4, "class 4")):
        shutil.copytree(root / "data" / "test" / f"class {i}", other / name)
    shutil.copytree(root / "data" / "test" / "class 0", other / "class 9")
    (other / "class 1" / "0.png").rename(other / "class 4" / "moved.png")  # one is of another class there
    for i in range(6):
        shutil.copytree(root / "data" / "test" / f"class {i}", root / "numbered" / str(i))
    return root


def ended(folder: Path, *argv: str) -> int:
    out = folder / "runs"
    data = ["--data", f"x:imagefolder={folder / 'data'}", "--out", str(out), "--cache", str(folder / "cache")]
    usual = {"--protocols": "shift", "--shift.k": "5"}
    left = [word for flag, value in usual.items() if flag not in argv for word in (flag, value)]
    return cli.main(["run", DEIT, "--num-heads", "3", *data, "--quiet", *left, *argv])


def run(folder: Path, *argv: str) -> tuple[Result, dict[str, np.ndarray]]:
    assert ended(folder, *argv) == 0
    path, result = max(results.find(folder / "runs"), key=lambda found: found[0].stat().st_mtime_ns)
    return result, results.read_predictions(path)


def value(result: Result, metric: str, **at: object) -> float:
    (found,) = [s.value for s in result.scores if s.metric == metric and at.items() <= dict(s.at).items()]
    return found


def test_other_sets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--test-on", f"other={folder / 'other'}", f"n:numbered={folder / 'numbered'}"]
    result, arrays = run(folder, *sets, "--shift.classifiers", "knn", "logistic")
    printed = capsys.readouterr().out
    assert "shift other" in printed and "shift n" in printed
    assert any("left out: 4 images of 1 other classes, class 9" in note for note in result.notes)
    net = evaltk.load_checkpoint(DEIT, num_heads=3)
    train, test = (evaltk.extract(net, f"x:imagefolder={folder / 'data'}", part=part) for part in ("train", "test"))
    bank = train.x / np.linalg.norm(train.x, axis=1, keepdims=True)
    right, confidences = [], []
    for x, y in zip(test.x, test.y, strict=True):
        near = np.argsort(-(bank @ (x / np.linalg.norm(x))), kind="stable")[:5]
        votes = np.zeros(6)
        for i in near:
            votes[train.y[i]] += np.exp(bank[i] @ (x / np.linalg.norm(x)) / 0.07)
        confidences.append(votes.max() / votes.sum())
        right.append(votes.argmax() == y)
    assert value(result, "top1", set="test", classifier="knn") == pytest.approx(np.mean(right))
    np.testing.assert_allclose(arrays["knn_test_confidence"], confidences, rtol=1e-4)
    bins = np.clip(np.ceil(np.array(confidences) * 15).astype(int), 1, 15)
    slow = sum(
        abs(np.mean(np.array(right)[bins == b]) - np.mean(np.array(confidences)[bins == b])) * (bins == b).mean()
        for b in set(bins.tolist())
    )
    assert value(result, "ece", set="test", classifier="knn") == pytest.approx(slow, abs=1e-6)
    # The numbered folder holds the test images themselves.
    for name in ("knn", "logistic"):
        assert value(result, "top1", set="n", classifier=name) == value(result, "top1", set="test", classifier=name)
    target = arrays["target_other"]
    assert sorted(target.tolist()) == [1] * 3 + [4] * 5
    assert value(result, "top1", set="other", classifier="knn") == np.mean(arrays["knn_other"] == target)
    among = value(result, "top1_among", set="other", classifier="knn")
    assert among >= value(result, "top1", set="other", classifier="knn")
    assert [str(name) for name in arrays["class_names"]] == [f"class {i}" for i in range(6)]
    assert cli.main(["classes", "--runs", str(folder / "runs"), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    one = next(f for f in found if "set test" in f["title"] and "knn" in f["title"])
    assert one["ece"] == pytest.approx(slow, abs=1e-6) and set(one["classes"]) == {f"class {i}" for i in range(6)}
    figure = folder / "reliability.svg"
    assert cli.main(["classes", "--runs", str(folder / "runs"), "--figure", str(figure), "--quiet"]) == 0
    assert "Least accurate classes" in capsys.readouterr().out and "ECE" in figure.read_text()


def test_corruptions_made_on_the_fly(folder: Path) -> None:
    argv = ["--shift.corruptions", "contrast", "fog", "--shift.severities", "1", "5", "--shift.shots", "3"]
    result, _ = run(folder, *argv)
    found = [s for s in result.scores if s.metric == "top1_corrupted"]
    wanted = [(name, severity) for name in ("contrast", "fog") for severity in (1, 5)]
    assert [(s.at["corruption"], s.at["severity"]) for s in found] == wanted
    mean = value(result, "top1_corrupted_mean", made="on the fly", corruptions=2)
    assert mean == pytest.approx(np.mean([s.value for s in found]))
    assert not [s for s in result.scores if s.metric == "mce"]
    assert any("18 training images, 3 per class" in note for note in result.notes)


def test_folders_are_never_mapped_by_chance(tmp_path: Path) -> None:
    def training(*names: str) -> Dataset:
        split = images.from_arrays("d", "train", np.zeros((12, 2, 2, 3), np.uint8), np.arange(12) % 2, names)
        return Dataset(name="d", train=split, test=split)

    for name in ("Class 1", "1", "2"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    with pytest.raises(DataError, match="'Class 1' differs from 'class 1' in case only"):
        mapped(training("1", "class 1"), "other", tmp_path)
    numbers = sorted(map(str, range(12)))  # as text: the third is class 10
    with pytest.raises(DataError, match=r"numbers in another order.*: by name"):
        mapped(training(*numbers), "other", tmp_path, numbered=True)
    split, _ = mapped(training(*numbers), "other", tmp_path)
    assert [numbers[i] for i in split.labels] == ["1", "2"]


def test_mean_corruption_error(tmp_path: Path) -> None:
    """The whole of ImageNet-C in its layout, its features made up: one image each, right from some severity on."""
    rng = np.random.default_rng(0)
    last_right = {name: int(rng.integers(0, 6)) for name in ALEXNET}
    for name in ALEXNET:
        for severity in range(1, 6):
            place = tmp_path / "group" / name / str(severity) / "b"
            place.mkdir(parents=True)
            (place / "0.png").touch()
    pixels = np.zeros((6, 1, 1, 3), np.uint8)
    train, test = (images.from_arrays("x", name, pixels, np.arange(6) % 2, ["a", "b"]) for name in ("train", "test"))

    def features(split: Split, need: object) -> Features:
        y = split.labels.copy()
        if split.name.startswith("on "):
            name, _, severity = split.name.removeprefix("on ").rpartition("_")
            y = y if int(severity) <= last_right[name] else 1 - y  # looks like the other class
        names = tuple(map(str, range(len(y))))
        return Features(x=np.eye(2, dtype=np.float32)[y], y=split.labels, ids=names, key=KEY)

    plain = Transform(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    bench = SimpleNamespace(
        features=features, device="cpu", seed=0, class_feature=lambda need: need, transform=lambda: plain
    )
    dataset = Dataset(name="x", train=train, test=test)
    found = shift.run(bench, dataset, shift.Settings(imagenet_c=str(tmp_path), k=1))  # type: ignore[arg-type]
    (mce,) = [s.value for s in found.scores if s.metric == "mce"]
    slow = [(5 - last_right[name]) / 5 / error for name, error in ALEXNET.items()]
    assert mce == pytest.approx(np.mean(slow))
    assert [s.value for s in found.scores if s.metric == "ce"] == pytest.approx(slow)
    shutil.rmtree(tmp_path / "group" / "frost")
    found = shift.run(bench, dataset, shift.Settings(imagenet_c=str(tmp_path), k=1))  # type: ignore[arg-type]
    assert "no mean corruption error: 14 of 15 corruptions of ImageNet-C are there" in found.notes
    assert not [s for s in found.scores if s.metric == "mce"]
    shutil.rmtree(tmp_path / "group" / "fog" / "3")
    with pytest.raises(DataError, match="severities 1 to 5 of fog; got no 3"):
        shift.run(bench, dataset, shift.Settings(imagenet_c=str(tmp_path), k=1))  # type: ignore[arg-type]


def test_mean_corruption_error_of_alexnet_is_one() -> None:
    alexnet = {(name, s): error for name, error in ALEXNET.items() for s in range(1, 6)}
    mce, ces = mean_corruption_error(alexnet) or (0, {})
    assert mce == pytest.approx(1) and len(ces) == 15 and mean_corruption_error({("fog", 1): 0.5}) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"test_on": ("other",)}, "LABEL=PATH"),
        ({"test_on": ("a:b=c",)}, "LABEL=PATH"),
        ({"test_on": ("a=x", "a=y")}, "each once"),
        ({"corruptions": ("rain",)}, "all, or some of"),
        ({"severities": (6,)}, "severities from 1 to 5"),
        ({"shots": 0}, "--shift.shots"),
    ],
)
def test_settings(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        shift.Settings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--shift.test-on", "a=/nowhere"], "no such folder"),
        (["--shift.test-on", "a={folder}/numbered"], "a:numbered="),
        (["--shift.test-on", "a={folder}/data/train"], "images of a that are no training images"),
        (["--shift.k", "999"], "<= 36 training images"),
        (["--test-on", "a={folder}/other", "--protocols", "knn"], "the protocol shift for other test sets"),
    ],
)
def test_refused(folder: Path, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(folder, *(word.format(folder=folder) for word in argv)) == 2
    error = capsys.readouterr().err
    assert said in error and len(error) < 320
