"""Linear transfer against a plain scikit-learn loop, and small cases one can check by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score
from sklearn.model_selection import StratifiedKFold

from evaltk import cli, results
from evaltk.bench import Need, Outcome
from evaltk.data import images
from evaltk.data.images import Dataset, Split
from evaltk.deviations import NOT_COMPARABLE
from evaltk.errors import DataError, SettingsError
from evaltk.types import FeatureKey, Features, Recipe, Score
from protocols import transfer

KEY = FeatureKey(
    sha256="0", dataset="0", split="x", transform="", recipe="", precision="fp32", position="dino", version=1
)
GRID = {"lowest": -2.0, "highest": 3.0, "strengths": 6}
METRICS = {
    "top1": accuracy_score,
    "mean_per_class": lambda y, predicted: recall_score(y, predicted, average="macro", zero_division=0),
}


def a_split(name: str, labels: np.ndarray, num_classes: int) -> Split:
    draw = np.random.default_rng(len(labels))
    pixels = draw.integers(0, 256, (len(labels), 2, 2, 3), dtype=np.uint8)
    return images.from_arrays("toy", name, pixels, labels, [f"c{i}" for i in range(num_classes)])


def a_dataset(y: np.ndarray, targets: np.ndarray, classes: int, **more: object) -> Dataset:
    return Dataset(name="toy", train=a_split("train", y, classes), test=a_split("test", targets, classes), **more)


def a_run(
    x: np.ndarray, y: np.ndarray, queries: np.ndarray, targets: np.ndarray, classes: int, *,
    dataset: Dataset | None = None, skipped: tuple[int, ...] = (), **settings: object,
) -> Outcome:  # fmt: skip
    """The protocol on features made elsewhere; the training images `skipped` could not be read."""
    dataset = dataset or a_dataset(y, targets, classes)
    stored = {"train": (x, y), "test": (queries, targets)}

    def features(split: Split, need: Need) -> Features:
        assert need == Need(recipe=Recipe(), view="ssl")
        rows, labels = stored[split.name]
        kept = [i for i in range(len(labels)) if split.name == "test" or i not in skipped]
        names = tuple(map(str, skipped)) if split.name == "train" else ()
        return Features(
            x=rows[kept].astype(np.float32), y=labels[kept].astype(np.int64), ids=tuple(map(str, kept)), key=KEY,
            skipped=names,
        )  # fmt: skip

    bench = SimpleNamespace(features=features, device="cpu", seed=0, class_feature=lambda need: need)
    return transfer.run(bench, dataset, transfer.Settings(**{**GRID, **settings}))


def score(outcome: Outcome, metric: str, **at: object) -> Score:
    (found,) = [s for s in outcome.scores if s.metric == metric and at.items() <= dict(s.at).items()]
    return found


def toy(seed: int = 0, *, n: int = 160, classes: int = 4) -> tuple[np.ndarray, ...]:
    """Overlapping clouds of unequal sizes, so that the two metrics differ: x [n, 6], y, queries, targets."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(classes, 6))
    share = np.arange(1, classes + 1) / sum(range(classes + 1))
    y, targets = draw.choice(classes, n, p=share), draw.choice(classes, 300, p=share)
    y[: 5 * classes] = np.repeat(np.arange(classes), 5)
    x, queries = (3 * (centres[part] + 1.3 * draw.normal(size=(len(part), 6))) for part in (y, targets))
    return x.astype(np.float32), y, queries.astype(np.float32), targets


def by_sklearn(x: np.ndarray, y: np.ndarray, l2: float, queries: np.ndarray) -> np.ndarray:
    model = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=20_000).fit(x.astype(np.float64), y)
    return model.predict(queries.astype(np.float64))


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_cv5_is_a_loop_over_scikit_learns_folds(metric: str) -> None:
    x, y, queries, targets = toy()
    l2s = np.logspace(-2, 3, 6)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(x, y))
    mean = [
        np.mean([METRICS[metric](y[left], by_sklearn(x[on], y[on], l2, x[left])) for on, left in folds]) for l2 in l2s
    ]
    best = max(range(6), key=lambda i: (mean[i], l2s[i]))
    predicted = by_sklearn(x, y, l2s[best], queries)
    outcome = a_run(x, y, queries, targets, 4, metric=metric)
    found = score(outcome, "transfer")
    assert found.at == {"mode": "cv5", "l2": float(f"{l2s[best]:.6g}"), "metric": metric}
    assert found.value == pytest.approx(METRICS[metric](targets, predicted), abs=1e-12)
    for name, function in METRICS.items():
        other = score(outcome, name)
        assert other.value == pytest.approx(function(targets, predicted), abs=1e-12)
        assert other.interval is not None and other.interval[0] < other.value < other.interval[1] and other.n == 300
    assert abs(score(outcome, "top1").value - score(outcome, "mean_per_class").value) > 0.02
    assert np.array_equal(outcome.predictions["predicted"], predicted)
    assert np.array_equal(outcome.predictions["target"], targets)
    swept = [s.value for s in outcome.scores if s.metric == "validation"]
    assert swept == pytest.approx(mean, abs=1e-9)
    chosen = score(outcome, "validation_chosen_l2")
    assert (chosen.value, chosen.at["l2"], chosen.split) == (swept[best], found.at["l2"], "train")
    assert outcome.notes == ("l2 chosen by 5-fold cross-validation on 160 images, seed 0",)  # and no doubts


def test_holdout_on_the_official_validation_images() -> None:
    x, y, queries, targets = toy(1)
    val = np.zeros(160, dtype=bool)
    val[110:] = True
    dataset = a_dataset(y, targets, 4, val=val, metric="mean_per_class")
    l2s = np.logspace(-2, 3, 6)
    scores = [METRICS["mean_per_class"](y[val], by_sklearn(x[~val], y[~val], l2, x[val])) for l2 in l2s]
    best = int(np.argmax(scores))  # the first, which is the weakest
    outcome = a_run(x, y, queries, targets, 4, dataset=dataset, mode="holdout")
    assert [s.value for s in outcome.scores if s.metric == "validation"] == pytest.approx(scores, abs=1e-9)
    found = score(outcome, "transfer")
    assert found.at == {"mode": "holdout", "l2": float(f"{l2s[best]:.6g}"), "metric": "mean_per_class"}
    predicted = by_sklearn(x, y, l2s[best], queries)  # fitted again on train and val
    assert np.array_equal(outcome.predictions["predicted"], predicted)
    assert outcome.notes[0] == "l2 chosen on the official validation split, 50 images"


def test_holdout_of_a_fifth_drawn_as_the_original_draws_it() -> None:
    x, y, queries, targets = toy(2)
    indices = list(range(160))
    np.random.seed(0)  # ssl-transfer linear.py:300-310 seeds and shuffles so, and validates on the first fifth
    np.random.shuffle(indices)
    held, rest = indices[:32], indices[32:]
    scores = [accuracy_score(y[held], by_sklearn(x[rest], y[rest], l2, x[held])) for l2 in np.logspace(-2, 3, 6)]
    outcome = a_run(x, y, queries, targets, 4, mode="holdout")
    assert [s.value for s in outcome.scores if s.metric == "validation"] == pytest.approx(scores, abs=1e-9)
    assert score(outcome, "transfer").at["l2"] == float(f"{np.logspace(-2, 3, 6)[int(np.argmax(scores))]:.6g}")
    assert outcome.notes[0] == "l2 chosen on 32 randomly held-out training images"


def test_ties() -> None:
    scores = [0.5, 0.7, 0.7 - 1e-15, 0.6, 0.7, 0.2]
    assert transfer.choose(scores, prefer="stronger") == 4 and transfer.choose(scores, prefer="weaker") == 1
    assert transfer.choose([0.3], prefer="stronger") == 0


def test_the_grid_is_the_papers() -> None:
    l2s = transfer.Settings().l2s
    assert len(l2s) == 45 and l2s == pytest.approx([10 ** (-6 + 0.25 * i) for i in range(45)], rel=1e-12)
    assert transfer.Settings(strengths=1, lowest=0, highest=0).l2s == (1.0,)


def test_a_choice_on_the_edge_of_the_grid_is_told() -> None:
    x, y, queries, targets = toy()
    outcome = a_run(x, y, queries, targets, 4, lowest=3.0, highest=4.0, strengths=2)
    assert "the chosen l2 = 1000 is the weakest tried; extend the grid" in outcome.notes
    separable = np.eye(4)[y] * 9
    outcome = a_run(separable, y, np.eye(4)[targets] * 9, targets, 4)
    assert score(outcome, "transfer").value == 1.0  # all strengths alike, so the strongest
    assert any("l2 = 1000 is the strongest tried" in note for note in outcome.notes)
    assert not a_run(x, y, queries, targets, 4, lowest=0.0, highest=0.0, strengths=1).notes[1:]


def test_fits_that_did_not_converge_are_told() -> None:
    outcome = a_run(*toy(), 4, max_iterations=1)
    told = " | ".join(outcome.notes)
    assert "of 30 fits of the search did not converge (relative gradient" in told
    assert "the final fit did not converge (relative gradient" in told


def test_unreadable_images_leave_the_others_in_their_place() -> None:
    x, y, queries, targets = toy(1)
    val = np.arange(160) >= 110
    dataset = a_dataset(y, targets, 4, val=val)
    skipped = (7, 60, 111, 130)
    kept = np.setdiff1d(np.arange(160), skipped)
    outcome = a_run(x, y, queries, targets, 4, dataset=dataset, skipped=skipped, mode="holdout")
    on, left = (kept[~val[kept]], kept[val[kept]])
    scores = [accuracy_score(y[left], by_sklearn(x[on], y[on], l2, x[left])) for l2 in np.logspace(-2, 3, 6)]
    assert [s.value for s in outcome.scores if s.metric == "validation"] == pytest.approx(scores, abs=1e-9)
    assert [d.text for d in outcome.deviations] == ["4 unreadable images left out of x"]
    assert outcome.notes[0] == "l2 chosen on the official validation split, 48 images"


def test_small_classes_lack_in_some_folds() -> None:
    x, y, queries, targets = toy()
    y = np.where(y == 0, 1, y)
    y[:3] = 0
    outcome = a_run(x, y, queries, targets, 4)
    assert outcome.notes[0].endswith("; 1 classes have fewer than 5 images and are missing from some folds")


@pytest.mark.parametrize(
    ("y", "targets", "says"),
    [
        (np.zeros(40, int), np.zeros(9, int), "training images of two classes or more; got one, c0"),
        (np.arange(40) % 2, np.full(9, 2), "training images of every test class; got 1 classes of test.*: c2"),
        (np.arange(12) % 3, np.zeros(9, int), "a class with 5 images, one per fold; got 4 images of the largest class"),
        (np.zeros(0, int), np.zeros(9, int), "at least one image; got none; where: toy train"),
        (np.arange(40) % 3, np.zeros(0, int), "at least one image; got none; where: toy test"),
    ],
)
def test_labels_that_nothing_can_be_learnt_from(y: np.ndarray, targets: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):  # before any image is read
        transfer.check(a_dataset(y, targets, 3), transfer.Settings())
    if "5 images" in says:
        transfer.check(a_dataset(y, targets, 3), transfer.Settings(mode="holdout"))


def test_nothing_left_to_validate_on() -> None:
    x, y, queries, targets = toy()
    for val in (np.zeros(160, bool), np.ones(160, bool)):
        with pytest.raises(DataError, match="images to train on and to validate on"):
            a_run(x, y, queries, targets, 4, dataset=a_dataset(y, targets, 4, val=val), mode="holdout")
    with pytest.raises(DataError, match="images to train on and to validate on; got 4 and 0"):
        a_run(x[:4], np.arange(4), queries, targets, 4, mode="holdout")


def test_features_that_are_not_finite() -> None:
    x, y, queries, targets = toy()
    for part in (x, queries):
        bad = part.copy()
        bad[17, 2] = np.nan
        given = (bad, y, queries, targets) if part is x else (x, y, bad, targets)
        with pytest.raises(DataError, match="row 17"):
            a_run(*given, 4)


def test_test_images_among_the_training_images_are_refused() -> None:
    x, y, queries, _ = toy()
    train = a_split("train", y, 4)
    test = images.from_arrays("toy", "test", train.pixels[:30], y[:30], train.classes)
    with pytest.raises(DataError, match=r"got 30 of 30 with the same bytes.*mixed up\?"):
        a_run(x, y, queries[:30], y[:30], 4, dataset=Dataset(name="toy", train=train, test=test))


def test_mean_of_classes_is_scikit_learns_recall() -> None:
    draw = np.random.default_rng(0)
    y, predicted = draw.integers(0, 7, (5, 40)), draw.integers(0, 7, (5, 40))
    y[2] = 3
    y[3][y[3] == 6] = 0
    expected = [recall_score(a, b, labels=np.unique(a), average="macro") for a, b in zip(y, predicted, strict=True)]
    found = transfer.mean_of_classes(np.stack([y, y == predicted], axis=-1).astype(np.float64))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"strengths": 0}, "--transfer.strengths"),
        ({"max_iterations": 0}, "--transfer.max-iterations"),
        ({"lowest": 1.0, "highest": 0.0}, "lowest < highest"),
        ({"lowest": float("nan")}, "lowest < highest"),
        ({"highest": float("inf")}, "lowest < highest"),
        ({"lowest": 1.0, "highest": 1.0}, "lowest < highest"),
    ],
)
def test_settings_out_of_range(given: dict[str, float], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        transfer.Settings(**given)


def textures(root: Path) -> Path:
    """DTD made small: three colours that are easy to tell apart, in its official layout."""
    draw = np.random.default_rng(0)
    for split, numbers in {"train": range(8), "val": range(8, 11), "test": range(11, 16)}.items():
        files = [f"{name}/{name}_{n:04d}.jpg" for name in ("blue", "green", "red") for n in numbers]
        for file in files:
            noise = draw.integers(0, 60, (20, 24, 3))
            noise[..., ("red", "green", "blue").index(file.split("/")[0])] += 150
            (root / "images" / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.astype(np.uint8)).save(root / "images" / file)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{split}1.txt").write_text("\n".join(files) + "\n")
    return root


@pytest.mark.parametrize("mode", ["cv5", "holdout"])
def test_one_command_from_a_folder_to_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    root = textures(tmp_path / "dtd")
    folders = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    command = ["run", "pixels:8", "--protocols", "transfer", "--data", f"dtd={root}", "--transfer.mode", mode, *folders]
    assert cli.main([*command, "--transfer.strengths", "5"]) == 0
    out = capsys.readouterr().out
    assert "Results on dtd test, n = 15" in out and "transfer" in out
    (path,) = (tmp_path / "runs").rglob("*.json")
    found = results.read(path)
    assert any(deviation.kind in NOT_COMPARABLE for deviation in found.deviations)
    assert found.protocol == "transfer" and found.preprocessing.views["ssl"].text.startswith("resize 8 bicubic")
    values = {s.metric: (s.value, s.n, s.split) for s in found.scores if s.metric != "validation"}
    assert values["transfer"] == values["top1"] == values["mean_per_class"] == (1.0, 15, "test")
    assert values["validation_chosen_l2"] == (1.0, 33, "trainval")
    (root / "labels" / "val1.txt").unlink()
    assert cli.main(command) == 2
    assert "wanted val1.txt; got no such file" in capsys.readouterr().err
