"""Few-shot classification against scikit-learn and recorded figures; lists and draws on small trees."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fewshot_inputs import Build, dataset_of
from sklearn.linear_model import LogisticRegression

import evaltk
from evaltk import cli, logistic, results
from evaltk.bench import Need, Outcome
from evaltk.data import images
from evaltk.data.images import Dataset, Split
from evaltk.datasets import digits
from evaltk.errors import DataError, SettingsError
from evaltk.types import FeatureKey, Features, Recipe
from protocols import fewshot
from protocols.fewshot import shots
from reports import layouts

GOLDEN = Path(__file__).parents[1] / "golden"


FEWSHOT = json.loads((GOLDEN / "fewshot_expected.json").read_text())


NET = "random:vit_patch4_dim32_depth2_heads2_img16"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "knn_input.npz") as found:
        return dict(found)


def from_formula(x: np.ndarray) -> np.ndarray:
    rows = [(row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).sum()) for row in x.astype(np.float64)]
    return np.stack(rows)


def a_split(labels: np.ndarray, num_classes: int, name: str = "train") -> Split:
    pixels = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return images.from_arrays("toy", name, pixels, labels, [str(c) for c in range(num_classes)])


def a_run(golden: dict[str, np.ndarray], *, lost: tuple[str, ...] = (), seed: int = 0, **settings: object) -> Outcome:
    """The protocol on features made elsewhere, some of them lost."""
    train, test = (a_split(golden[f"{k}_labels"], 10, k) for k in ("train", "test"))
    chosen = fewshot.Settings(**settings)  # type: ignore[arg-type]
    dataset = Dataset(name="toy", train=train, test=test)

    def features(split: Split, need: Need) -> Features:
        assert need == Need(recipe=Recipe(norm=False), view="msn")
        key = FeatureKey(
            sha256="0", dataset="0", split=split.name, transform="", recipe="", precision="fp32", position="", version=1
        )
        x, ids = golden["test"], tuple(map(str, range(len(split))))
        if split.name != "test":
            _, rows = shots.union(train, fewshot.choose(train, chosen, seed).shots)
            x = golden["train"][rows]
        kept = [i for i, name in enumerate(ids) if split.name == "test" or name not in lost]
        lacking = tuple(sorted(set(ids) - {ids[i] for i in kept}))
        named = tuple(ids[i] for i in kept)
        return Features(x=x[kept], y=split.labels[kept], ids=named, key=key, skipped=lacking)

    return fewshot.run(
        SimpleNamespace(features=features, device="cpu", seed=seed, class_feature=lambda need: need), dataset, chosen
    )  # type: ignore[arg-type]


def test_each_row_is_centred_on_its_own_mean(golden: dict[str, np.ndarray]) -> None:
    x = np.concatenate([golden["test"][:5] * 7 + 3, np.full((1, golden["test"].shape[1]), 2.5)])
    made = fewshot.centred(x)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[:5], from_formula(x[:5]), atol=1e-7)
    assert not made[5].any()


@pytest.mark.parametrize("shots_", sorted(FEWSHOT))
def test_the_recorded_figures_by_the_command(
    golden: dict[str, np.ndarray], shots_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"train": "train", "labels": "train_labels", "queries": "test", "query-labels": "test_labels"}
    argv = ["score", "fewshot", "--json", "--rows", str(tmp_path / "rows.json")]
    for flag, key in given.items():
        np.save(tmp_path / f"{flag}.npy", golden[key])
        argv += [f"--{flag}", str(tmp_path / f"{flag}.npy")]
    expected = FEWSHOT[shots_]
    (tmp_path / "rows.json").write_text(json.dumps(expected["indices"]))
    assert cli.main(argv) == 0
    (split,) = json.loads(capsys.readouterr().out)["penalty"]["0.075"]["splits"]
    assert split["top1"] == expected["test_acc"] == expected["sk_test_acc"]
    assert split["objective"] == pytest.approx(expected["objective_half_l2"], rel=1e-6)
    assert split["w_norm"] == pytest.approx(expected["w_norm"], abs=1e-3)
    assert split["converged"] and split["n_train"] == len(expected["indices"])
    assert cli.main([*argv[:2], *argv[3:], "--penalty", "0.075", "2.5"]) == 0
    assert f"| {100 * expected['test_acc']:.2f} [" in capsys.readouterr().out


def test_the_feature_is_msns() -> None:
    need = fewshot.need_of(fewshot.Settings())
    backbone = evaltk.build_backbone(evaltk.load_checkpoint(GOLDEN / "msn_checkpoint.pth.tar", num_heads=3))
    nets = np.load(GOLDEN / "nets.npz")
    (found,) = backbone.features(torch.from_numpy(nets["ibot_msn_input"]), (need.recipe,))
    np.testing.assert_allclose(found.numpy(), nets["msn_last_block_cls_prenorm"], atol=1e-4)


def test_presets_and_switches() -> None:
    def need(**given: object) -> Need:
        return fewshot.need_of(fewshot.Settings(**given))  # type: ignore[arg-type]

    pre, post = Recipe(norm=False), Recipe()
    assert need() == Need(recipe=pre, view="msn")
    assert need(preset="dino") == Need(recipe=post, view="eval") == need(norm="post", resize="bicubic")
    assert need(norm="post") == Need(recipe=post, view="msn") == need(preset="dino", resize="bilinear")
    assert need(resize="bicubic") == Need(recipe=pre, view="eval") == need(preset="dino", norm="pre")


def test_every_split_is_scikit_learns(golden: dict[str, np.ndarray]) -> None:
    penalties = (0.075, 2.5)
    outcome = a_run(golden, penalty=penalties, percent=3.0)
    each = {(s.at["shots"], s.at["split"], s.at["penalty"]): s for s in outcome.scores if s.metric == "top1"}
    assert len(each) == 2 * (3 * 3 + 1)
    queries, wanted = from_formula(golden["test"]), golden["test_labels"]
    for (k, split, penalty), score in each.items():
        name = f"shots{k}_split{split}"
        rows = outcome.predictions[f"{name}_train"]
        model = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-8, max_iter=10_000)
        model.fit(from_formula(golden["train"][rows]), golden["train_labels"][rows])
        predicted = outcome.predictions[f"{name}_penalty{penalty}"]
        np.testing.assert_array_equal(predicted, model.predict(queries))
        if split == 1:
            confidence = outcome.predictions[f"{name}_penalty{penalty}_confidence"]
            np.testing.assert_allclose(confidence, model.predict_proba(queries).max(axis=1), rtol=1e-4)
        assert score.value == float((predicted == wanted).mean())
        assert score.interval is not None and score.interval[0] < score.value < score.interval[1]
        assert score.at["n_train"] == len(rows)
    for k in (1, 2, 5):
        of = [each[k, split, 0.075].value for split in (1, 2, 3)]
        at = {"shots": k, "penalty": 0.075, "splits": 3}
        found = {s.metric: s.value for s in outcome.scores if at.items() <= dict(s.at).items()}
        mean = sum(of) / 3
        assert outcome.predictions[f"shots{k}_penalty0.075"].mean() == pytest.approx(mean, abs=1e-12)
        squares = sum((v - mean) ** 2 for v in of)
        assert found == {
            "top1_mean": pytest.approx(mean, rel=1e-12),
            "top1_std_sample": pytest.approx((squares / 2) ** 0.5),
            "top1_std_population": pytest.approx((squares / 3) ** 0.5),
            "ece_mean": pytest.approx(sum(s.value for s in outcome.scores if s.metric == "ece" and s.at["shots"] == k
                                          and s.at["penalty"] == 0.075) / 3),
        }  # fmt: skip
    assert not [s for s in outcome.scores if s.at["shots"] == "3 %" and "std" in s.metric]
    np.testing.assert_array_equal(outcome.predictions["target"], wanted)


def test_threads_and_blocks_do_not_change_predictions(
    golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, plain, asked = torch.get_num_threads(), logistic.fit_path, {"shots": (2, 5), "splits": 1, "percent": 0}
    first = a_run(golden, **asked).predictions
    try:
        for count, block in ((2, None), (1, 7), (1, 40)):
            torch.set_num_threads(count)
            monkeypatch.setattr(logistic, "fit_path", lambda *a, b=block, **k: plain(*a, **k, block=b))
            other = a_run(golden, **asked).predictions
            assert first.keys() == other.keys()
            for key in first:  # probabilities differ by how near L-BFGS came to the optimum
                np.testing.assert_allclose(first[key], other[key], rtol=1e-4 if key.endswith("confidence") else 0)
    finally:
        torch.set_num_threads(threads)


def test_draws_are_nested_balanced_and_repeatable() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(730) % 7)
    train = a_split(labels, 7)
    chosen = shots.draw(train, per_class=(5, 1, 2), percent=10.0, splits=3, seed=0)
    rows = {(s.per_class, s.split): s.rows for s in chosen.shots}
    assert sorted(map(str, rows)) == sorted(map(str, [*((k, s) for k in (1, 2, 5) for s in (1, 2, 3)), ("10 %", 1)]))
    for (k, split), found in rows.items():
        counts = np.bincount(labels[found], minlength=7)
        assert len(set(found)) == len(found)
        if isinstance(k, int):
            assert (counts == k).all()
        else:
            assert counts.sum() == 73 and set(counts.tolist()) == {10, 11}
        inner = {1: None, 2: 1, 5: 2, "10 %": 5}[k]
        assert inner is None or set(rows[inner, split]) < set(found)
    assert not np.array_equal(rows[5, 1], rows[5, 2])
    again = shots.draw(train, per_class=(5,), percent=0, splits=1, seed=0)
    assert np.array_equal(again.shots[0].rows, rows[5, 1])
    other = shots.draw(train, per_class=(5,), percent=0, splits=1, seed=1)
    assert not np.array_equal(other.shots[0].rows, rows[5, 1])
    few = shots.draw(train, per_class=(1,), percent=0.5, splits=1, seed=0)
    assert [s.per_class for s in few.shots] == [1] and "less than one per class" in few.notes[-1]


def test_a_part_of_a_split(image_tree: Build) -> None:
    train = dataset_of(image_tree({"train/a": 4, "train/b": 4, "test/a": 1})).train
    chosen = [shots.Shots(per_class=1, split=s, rows=np.asarray(r)) for s, r in ((1, [1, 6]), (2, [6, 4]))]
    part, rows = shots.union(train, chosen)
    assert rows.tolist() == [1, 4, 6]
    assert [part.image_id(i) for i in range(3)] == [train.image_id(i) for i in (1, 4, 6)]
    assert part.labels.tolist() == [0, 1, 1]
    assert part.open(2).tobytes() == train.open(6).tobytes()
    assert shots.union(train, chosen[:1])[0].fingerprint != part.fingerprint != train.fingerprint
    pixels = digits.load(None).train
    part, rows = shots.union(pixels, chosen[:1])
    assert part.open(1).tobytes() == pixels.open(6).tobytes()
    with pytest.raises(DataError, match="training images"):
        shots.union(train, [])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"preset": "ibot"}, "msn or dino"), ({"norm": "none"}, "pre or post"), ({"resize": "nearest"}, "bilinear"),
        ({"penalty": ()}, "penalties > 0"), ({"penalty": (0.0,)}, "penalties > 0"), ({"shots": (0,)}, "numbers >= 1"),
        ({"percent": -1.0}, "0 to 100"), ({"splits": 0}, "at least 1"), ({"shots": (), "percent": 0}, "neither"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        fewshot.Settings(**given)  # type: ignore[arg-type]


def test_too_few_images_and_classes(image_tree: Build) -> None:
    root = image_tree({"train/a": 6, "train/b": 3, "test/a": 1})
    with pytest.raises(DataError, match="wanted at least 5 images of each class; got 3 of b") as caught:
        fewshot.check(dataset_of(root), fewshot.Settings())
    assert "--fewshot.shots" in str(caught.value)
    with pytest.raises(DataError, match=r"got 3 of b.*--fewshot.percent"):
        fewshot.check(dataset_of(root), fewshot.Settings(shots=(1,), percent=100.0))
    alone = dataset_of(image_tree({"train/a": 6, "test/a": 1}, name="alone"))
    with pytest.raises(DataError, match="two classes or more"):
        fewshot.check(alone, fewshot.Settings())


def test_what_features_may_lack(golden: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match="identical features for all"):
        a_run(golden | {"train": np.ones_like(golden["train"])}, percent=0)
    broken = golden["train"].copy()
    broken[:, 3] = np.nan
    with pytest.raises(DataError, match="finite features"):
        a_run(golden | {"train": broken}, percent=0)
    # Ten images are drawn: without one of them, a class has none.
    with pytest.raises(DataError, match="a readable image of each class in shots1_split1"):
        a_run(golden, shots=(1,), splits=1, percent=0, lost=("4",))
    whole = a_run(golden, shots=(5,), splits=1, percent=0)
    less = a_run(golden, shots=(5,), splits=1, percent=0, lost=("4",))
    (left_out,) = [d for d in less.deviations if d not in whole.deviations]
    assert (left_out.kind, left_out.text) == ("unreadable-images", "1 unreadable images left out of train (few-shot)")


def test_what_the_command_refuses(
    golden: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {"train": golden["train"][:60], "labels": golden["train_labels"][:60]}
    arrays |= {"queries": golden["test"], "query-labels": golden["test_labels"], "rows": np.arange(60)}
    broken = arrays["train"].copy()
    broken[7, 0] = np.inf
    for changes, words in (
        ({"train": broken}, "the first of them 7"), ({"labels": arrays["labels"][:5]}, "[5]"),
        ({"labels": arrays["labels"] - 1}, "class ids from 0 to"), ({"queries": golden["test"][:, :5]}, "64 features"),
        ({"labels": arrays["labels"] * 0, "query-labels": golden["test_labels"] * 0}, "single class"),
        ({"rows": np.arange(61)}, "rows [n] from 0 to 59"), ({"rows": np.zeros(3, int)}, "each row once"),
        ({"rows": np.arange(3)}, "rows of all 10 classes"),
    ):  # fmt: skip
        argv = ["score", "fewshot"]
        for flag, value in (arrays | changes).items():
            np.save(tmp_path / f"{flag}.npy", value)
            argv += [f"--{flag}", str(tmp_path / f"{flag}.npy")]
        assert run_main(argv) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said


def run_main(argv: list[str]) -> int:
    """The exit code of the command line, as a user's shell sees it."""
    try:
        return cli.main(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)


def test_from_images_to_a_result(tmp_path: Path) -> None:
    argv = ["run", NET, "--protocols", "fewshot", "--data", "digits", "--out", str(tmp_path / "runs")]
    argv += ["--cache", str(tmp_path / "cache"), "--json", "--fewshot.percent", "0"]
    assert cli.main(argv) == 0
    ((path, result),) = list(results.find(tmp_path / "runs"))
    layout = layouts.load("fewshot")
    shown = [s for s in result.scores if s.metric == layout.metric]
    assert [s.at[layout.sweep] for s in shown] == [1, 2, 5] and layout.also in shown[0].at
    assert {s.n for s in shown} == {797}
    assert {s.at["feature"] for s in result.scores} == {e.at["feature"] for e in layout.extra if e.hidden}
    assert "bilinear" in result.preprocessing.views["msn"].text
    arrays = results.read_predictions(path)
    wanted = digits.load(None).test.labels
    for score in result.scores:
        if score.metric == "top1":
            predicted = arrays[f"shots{score.at['shots']}_split{score.at['split']}_penalty0.075"]
            assert score.value == float((predicted == wanted).mean())
    # Only what is drawn is looked at: 5 images of 10 classes in 3 splits, and those to report on.
    sizes = {len(np.load(x, mmap_mode="r")) for x in (tmp_path / "cache").rglob("x.npy")}
    drawn = {row for key, rows in arrays.items() if key.endswith("_train") for row in rows.tolist()}
    assert sizes == {len(drawn), 797} and len(drawn) <= 150
