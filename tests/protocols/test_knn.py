"""k-NN against the original's figures, a loop written from the formula, and small cases one can check by hand."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaltk import neighbours
from evaltk.bench import Need, Outcome
from evaltk.data import images
from evaltk.data.images import Dataset, Split
from evaltk.errors import DataError, SettingsError
from evaltk.seeding import generator
from evaltk.types import FeatureKey, Features, Recipe, Score
from protocols import knn

GOLDEN = Path(__file__).parents[1] / "golden"
KS, TEMPERATURES = (1, 5, 10, 20, 100, 200), (0.07, 0.2)
KEY = FeatureKey(
    sha256="0", dataset="0", split="x", transform="", recipe="", precision="fp32", position="dino", version=1
)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "knn_input.npz") as found:
        return dict(found)


def a_split(name: str, labels: np.ndarray, num_classes: int) -> Split:
    pixels = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return images.from_arrays("toy", name, pixels, labels, [str(c) for c in range(num_classes)])


def a_run(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, targets: np.ndarray, classes: int, **settings: object
) -> Outcome:
    """The protocol on features made elsewhere."""
    dataset = Dataset(name="toy", train=a_split("train", labels, classes), test=a_split("test", targets, classes))
    stored = {"train": (bank, labels), "test": (queries, targets)}

    def features(split: Split, need: Need) -> Features:
        assert need == Need(recipe=Recipe(), view="eval")
        x, y = stored[split.name]
        return Features(x=x.astype(np.float32), y=y.astype(np.int64), ids=tuple(map(str, range(len(y)))), key=KEY)

    bench = SimpleNamespace(
        features=features, device="cpu", generator=lambda *names: generator(0, *names), class_feature=lambda need: need
    )
    return knn.run(bench, dataset, knn.Settings(**settings))


def score(outcome: Outcome, metric: str, **at: object) -> Score:
    (found,) = [s for s in outcome.scores if s.metric == metric and at.items() <= dict(s.at).items()]
    return found


def slow_votes(
    bank: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int, temperature: float, classes: int
) -> np.ndarray:
    """One query, from the formula, in float64 and plain loops."""
    unit = [row / math.sqrt(sum(v * v for v in row)) for row in np.asarray(bank, np.float64)]
    q = np.asarray(query, np.float64) / math.sqrt(sum(v * v for v in np.asarray(query, np.float64)))
    similarity = [float(row @ q) for row in unit]
    nearest = sorted(range(len(unit)), key=lambda i: (-similarity[i], i))[:k]
    votes = np.zeros(classes)
    for i in nearest:
        votes[labels[i]] += math.exp(similarity[i] / temperature)
    return votes


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_the_originals_figures_exactly(golden: dict[str, np.ndarray], backend: str) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    outcome = a_run(
        golden["train"], golden["train_labels"], golden["test"], golden["test_labels"], 10,
        k=KS, temperature=TEMPERATURES, backend=backend,
    )  # fmt: skip
    expected = json.loads((GOLDEN / "knn_expected.json").read_text())
    assert len(expected) == len(KS) * len(TEMPERATURES)
    for k in KS:
        for t in TEMPERATURES:
            top1, top5 = (score(outcome, m, k=k, temperature=t) for m in ("top1", "top5"))
            assert [100 * top1.value, 100 * top5.value] == expected[f"k{k}_T{t}"]
            assert (top1.n, top1.split, top1.dataset) == (800, "test", "toy")
            assert top1.interval is not None and top1.interval[0] < top1.value < top1.interval[1]
            predicted = outcome.predictions[f"k{k}_t{t}"]
            assert 100 * float((predicted == golden["test_labels"]).mean()) == expected[f"k{k}_T{t}"][0]
    assert np.array_equal(outcome.predictions["target"], golden["test_labels"])


def test_votes_are_the_formulas(golden: dict[str, np.ndarray]) -> None:
    bank, labels = golden["train"][:300], golden["train_labels"][:300]
    queries = golden["test"][:25]
    for t in TEMPERATURES:
        found = knn.knn_votes(*map(torch.from_numpy, (bank, labels, queries)), (7, 1, 40, 300), t, 10)
        assert sorted(found) == [1, 7, 40, 300]
        for k, votes in found.items():
            assert votes.shape == (25, 10) and votes.dtype == torch.float64
            for row, query in zip(votes.numpy(), queries, strict=True):
                expected = slow_votes(bank, labels, query, k, t, 10)
                np.testing.assert_allclose(row / row.sum(), expected / expected.sum(), rtol=2e-5, atol=1e-12)


def test_the_public_signature() -> None:
    names = list(inspect.signature(knn.knn_votes).parameters)
    assert names == ["bank", "labels", "queries", "ks", "temperature", "num_classes"]


def test_four_vectors_one_can_check_by_eye() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([2, 0, 1, 0])
    queries = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    votes = knn.knn_votes(bank, labels, queries, (1, 2, 4), 0.5, 3)
    # Query 0 sees similarities 1, 0, -1, sqrt(1/2); its largest weight, exp(1 / 0.5), is divided out.
    near = math.exp((math.sqrt(0.5) - 1) / 0.5)
    expected = torch.tensor([[near + math.exp(-2), math.exp(-4), 1.0]], dtype=torch.float64)
    torch.testing.assert_close(votes[4][:1], expected, rtol=1e-6, atol=1e-7)
    assert votes[1][0].tolist() == [0.0, 0.0, 1.0]
    assert votes[2][0].tolist() == pytest.approx([near, 0.0, 1.0], rel=1e-6)
    assert votes[1][1].tolist() == [1.0, 0.0, 0.0]  # (0, 2) is nearer to (0, 0.1) than (1, 1)


def test_a_small_temperature_does_not_overflow() -> None:
    votes = knn.knn_votes(torch.eye(4), torch.arange(4), torch.eye(4), (4,), 1e-4, 4)[4]
    assert torch.isfinite(votes).all() and votes.argmax(1).tolist() == [0, 1, 2, 3]


def test_ties_go_to_the_smaller_index_and_class() -> None:
    bank = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    labels = np.array([3, 1, 2, 0, 2, 2, 1, 1])
    queries, targets = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([3, 1, 2])
    outcome = a_run(bank, labels, queries, targets, 4, k=(1, 2, 4), choose=0)
    assert outcome.predictions["k1_t0.07"].tolist() == [3, 2, 2]  # rows 0 and 4 come first
    assert outcome.predictions["k2_t0.07"].tolist() == [1, 2, 2]  # one vote each for 3 and 1
    assert outcome.predictions["k4_t0.07"].tolist() == [0, 1, 1]  # one vote each; two votes each for 2 and 1
    assert score(outcome, "top1", k=1).value == pytest.approx(2 / 3)
    assert score(outcome, "top1", k=4).value == pytest.approx(1 / 3)
    # With k = 2 the first two of four classes count; 1 got no vote and stands behind 0, which got none either.
    assert score(outcome, "top5", k=2).value == pytest.approx(2 / 3)
    assert score(outcome, "top5", k=1).value == pytest.approx(2 / 3)


def test_one_image_and_one_class() -> None:
    bank = np.random.default_rng(0).normal(size=(12, 4))
    outcome = a_run(bank, np.zeros(12, int), bank[:1], np.zeros(1, int), 1, k=(1, 12), choose=0)
    assert [s.value for s in outcome.scores] == [1.0] * 5 + [0.0] and {s.n for s in outcome.scores} == {1}


def test_k_larger_than_the_bank() -> None:
    bank, labels = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 3
    fewer = a_run(bank, labels, bank, labels, 3, k=(5, 10))
    outcome = a_run(bank, labels, bank, labels, 3, k=(5, 10, 13, 200))  # any folder is evaluated with the default k
    assert outcome.scores == fewer.scores and outcome.notes[0] == "k = 13 200 left out: train has 12 images"
    with pytest.raises(SettingsError, match=r"k <= 12, the images of toy train; got k = 13.*--knn\.k 1"):
        a_run(bank, labels, bank, labels, 3, k=(13, 20))
    dataset = Dataset(name="toy", train=a_split("train", labels, 3), test=a_split("test", labels, 3))
    with pytest.raises(SettingsError, match="k <= 12"):  # told before any image is read
        knn.check(dataset, knn.Settings(k=(20, 100)))
    knn.check(dataset, knn.Settings())
    knn.check(dataset, knn.Settings(k=(12,)))
    outcome = a_run(bank, labels, bank, labels, 3, k=(12,))
    assert not [s for s in outcome.scores if s.metric == "top1_chosen_k"]
    assert outcome.notes[-1] == "k not chosen on training images: k = 12 needs more than 12 of them"


def test_features_that_tell_nothing() -> None:
    labels = np.arange(5000) // 2500
    constant = np.ones((5000, 4))
    with pytest.raises(DataError, match=r"got identical features for all.*collapsed"):
        a_run(constant, labels, constant[:5], labels[:5], 2)
    with pytest.raises(DataError, match="got identical features for all"):
        a_run(0 * constant, labels, constant[:5], labels[:5], 2)
    blank = constant.copy()  # all images of the first class are alike, those of the second are not
    blank[2500:] += np.random.default_rng(0).normal(size=(2500, 4))
    assert a_run(blank, labels, blank[::100], labels[::100], 2, k=(5,), choose=0).scores
    one_zero = blank.copy()
    one_zero[1] = 0
    with pytest.raises(DataError, match="where: bank, row 1"):
        a_run(one_zero, labels, blank[:5], labels[:5], 2)
    one_zero[1] = np.nan
    with pytest.raises(DataError, match="where: bank, row 1"):
        a_run(one_zero, labels, blank[:5], labels[:5], 2)


def test_the_best_k_says_that_it_is(golden: dict[str, np.ndarray]) -> None:
    outcome = a_run(*(golden[n] for n in ("train", "train_labels", "test", "test_labels")), 10, k=KS)
    best = score(outcome, "top1_best_k")
    swept = {s.at["k"]: s.value for s in outcome.scores if s.metric == "top1"}
    assert best.value == max(swept.values()) and best.at["k"] == max(swept, key=lambda k: (swept[k], -k))
    assert best.at["chosen_on"] == "the reported split"


def test_of_equally_good_ks_the_smallest_is_named() -> None:
    bank = np.eye(4)
    outcome = a_run(bank, np.arange(4), bank, np.arange(4), 4, k=(3, 2, 1), temperature=(0.2, 0.07), choose=0)
    assert score(outcome, "top1_best_k").at == {"k": 1, "temperature": 0.2, "chosen_on": "the reported split"}


def leave_one_out(bank: np.ndarray, labels: np.ndarray, k: int, temperature: float, classes: int) -> int:
    right = 0
    for i in range(len(bank)):
        others = np.delete(np.arange(len(bank)), i)
        votes = slow_votes(bank[others], labels[others], bank[i], k, temperature, classes)
        right += int(votes.argmax() == labels[i])
    return right


def test_the_chosen_k_leaves_each_image_out_of_its_own_neighbours(golden: dict[str, np.ndarray]) -> None:
    bank, labels = golden["train"][:150], golden["train_labels"][:150]
    ks = (1, 3, 8, 20)
    outcome = a_run(bank, labels, golden["test"], golden["test_labels"], 10, k=ks)
    right = {k: leave_one_out(bank, labels, k, 0.07, 10) for k in ks}
    chosen = score(outcome, "top1_chosen_k")
    assert chosen.at["k"] == max(right, key=lambda k: (right[k], -k))
    assert chosen.value == score(outcome, "top1", k=chosen.at["k"]).value  # reported on the test split
    assert chosen.at["chosen_on"] == "150 images of train, left out one by one"


def test_the_chosen_k_with_exact_duplicates() -> None:
    # Each image is there seven times, under four classes: with itself among its neighbours k = 1 would always be right.
    draw = np.random.default_rng(3)
    bank = np.repeat(draw.normal(size=(9, 16)), 7, axis=0)
    labels = draw.integers(0, 4, len(bank))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = knn.rank_neighbours

    def watched(similarity: torch.Tensor, y: torch.Tensor, *rest: object) -> tuple:
        seen.append((similarity, y))
        return real(similarity, y, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "rank_neighbours", watched)
        outcome = a_run(bank, labels, bank[:9], labels[:9], 4, k=(1, 2, 4))
    right = {k: leave_one_out(bank, labels, k, 0.07, 4) for k in (1, 2, 4)}
    assert score(outcome, "top1_chosen_k").at["k"] == max(right, key=lambda k: (right[k], -k))
    similarity, y = seen[-1]
    assert similarity.shape == (63, 4)
    for i in range(63):
        group = [j for j in range(i // 7 * 7, i // 7 * 7 + 7) if j != i]
        assert y[i].tolist() == labels[group[:4]].tolist()


def test_the_images_that_k_is_chosen_on_are_drawn_by_name() -> None:
    draw = np.random.default_rng(0)
    bank, labels = draw.normal(size=(400, 8)), draw.integers(0, 5, 400)
    first, again = (a_run(bank, labels, bank[:20], labels[:20], 5, k=(1, 5), choose=60) for _ in range(2))
    assert first.scores == again.scores
    assert score(first, "top1_chosen_k").at["chosen_on"].startswith("60 images of train")
    assert not [s for s in a_run(bank, labels, bank, labels, 5, k=(1,), choose=0).scores if "chosen" in s.metric]


def test_a_setting_named_twice_counts_once() -> None:
    draw = np.random.default_rng(0)
    bank, labels = draw.normal(size=(50, 8)), draw.integers(0, 3, 50)
    once, twice = (
        a_run(bank, labels, bank[:20], labels[:20], 3, k=k, temperature=t, choose=0)
        for k, t in (((5, 2), (0.07,)), ((5, 5, 2), (0.07, 0.07)))
    )
    assert sorted(once.scores, key=str) == sorted(twice.scores, key=str) and {s.n for s in twice.scores} == {20}
    assert sorted(once.predictions) == sorted(twice.predictions)


def test_temperatures_that_are_near_each_other_are_kept_apart() -> None:
    draw = np.random.default_rng(0)
    bank, labels = draw.normal(size=(50, 8)), draw.integers(0, 3, 50)
    outcome = a_run(bank, labels, bank[:9], labels[:9], 3, k=(5,), temperature=(0.07, 0.07000001), choose=0)
    assert sorted(outcome.predictions) == ["k5_t0.07", "k5_t0.07000001", "k5_t0.07_confidence", "target"]


def test_many_classes_are_voted_for_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    bank, labels = draw.normal(size=(60, 8)), draw.integers(0, 40, 60)
    whole = a_run(bank, labels, bank, labels, 40, k=(3, 7))
    sizes: list[int] = []
    real = knn.count_votes

    def watched(similarity: torch.Tensor, *rest: object) -> dict:
        sizes.append(len(similarity))
        return real(similarity, *rest)

    monkeypatch.setattr(knn, "count_votes", watched)
    monkeypatch.setattr(knn, "VOTES", 280)
    assert a_run(bank, labels, bank, labels, 40, k=(3, 7)).scores == whole.scores and max(sizes) == 7


def test_search_blocks_change_nothing(golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [golden[n] for n in ("train", "train_labels", "test", "test_labels")]
    whole, real = a_run(*parts, 10, k=KS), neighbours.search
    monkeypatch.setattr(neighbours, "search", lambda *a, **b: real(*a, **b, query_block=77, bank_block=90))
    assert [(s.metric, s.value) for s in a_run(*parts, 10, k=KS).scores] == [(s.metric, s.value) for s in whole.scores]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"k": ()}, "--knn.k"),
        ({"k": (5, 0)}, "--knn.k"),
        ({"temperature": ()}, "--knn.temperature"),
        ({"temperature": (0.07, 0.0)}, "temperatures > 0"),
        ({"temperature": (-1.0,)}, "temperatures > 0"),
        ({"temperature": (math.nan,)}, "temperatures > 0"),
        ({"temperature": (math.inf,)}, "temperatures > 0"),
        ({"choose": -1}, "--knn.choose"),
    ],
)
def test_settings_that_will_not_do(given: dict, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        knn.Settings(**given)


def test_the_defaults_are_the_papers() -> None:
    found = knn.Settings()
    assert found.k == (5, 10, 20, 50, 100, 200) and found.temperature == (0.07,)
    assert Need(recipe=Recipe(tokens="cls", last=1, norm=True), view="eval") == knn.NEED


def test_equal_votes_are_equal_bits_wherever_they_stand() -> None:
    """Classes 2 and 0 have neighbours of the same similarities, in turn: a tie in every row, whatever its place."""
    for k in range(2, 40, 2):
        similarity = torch.linspace(0.9, 0.1, k // 2).repeat_interleave(2).repeat(k, 1)
        labels = torch.tensor([2, 0]).repeat(k // 2).repeat(k, 1)
        votes = knn.count_votes(similarity, labels, (k,), 0.07, 3)[k]
        assert len(votes.unique(dim=0)) == 1
        assert votes[0, 2] == votes[0, 0] > votes[0, 1] == 0
        ranks, predicted = knn.rank_neighbours(similarity, labels, torch.full((k,), 2), knn.Settings(k=(k,)), 3)
        assert ranks[k, 0.07].tolist() == [1] * k and predicted[k, 0.07].tolist() == [0] * k


def test_of_settings_with_as_many_right_the_smallest_k() -> None:
    right, less = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    ranks = {(20, 0.1): right, (5, 0.07): less, (10, 0.1): right, (10, 0.05): right}
    assert knn.most_right(ranks) == (10, 0.1)  # and of temperatures the one that was named first
