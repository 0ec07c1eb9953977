"""Softmax regression against scikit-learn, cyanure's recorded numbers, the optimum's conditions and small cases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression

from evaltk.errors import DataError, EvaltkError, SettingsError
from evaltk.logistic import regression as logistic

GOLDEN = Path(__file__).parents[1] / "golden"


FEWSHOT = json.loads((GOLDEN / "fewshot_expected.json").read_text())


def raw_features(
    num_rows: int, dim: int, num_classes: int, *, spread: float = 0.6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features as nets give them: far from the origin, norms about 40, a few directions with most variance."""
    draw = np.random.default_rng(seed)
    y = draw.permutation(np.arange(num_rows) % num_classes)
    x = draw.normal(size=(num_classes, dim))[y] * spread + draw.normal(size=(num_rows, dim))
    x = x / np.sqrt(np.arange(1, dim + 1)) @ np.linalg.qr(draw.normal(size=(dim, dim)))[0]
    x += draw.normal(size=dim) * x.std()
    return (x * 40 / np.linalg.norm(x, axis=1).mean()).astype(np.float32), y


def gradients(
    x: np.ndarray, y: np.ndarray, model: logistic.LogisticModel, l2: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """d objective / dW [C, D] and / db [C], and the objective, in float64 from the formula."""
    w = model.weight.double().numpy()
    b = np.zeros(len(w)) if model.bias is None else model.bias.double().numpy()
    logits = x.astype(np.float64) @ w.T + b
    logits -= logits.max(1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).sum()
    p[np.arange(len(y)), y] -= 1
    return p.T @ x.astype(np.float64) + l2 * w, p.sum(0), float(loss + l2 / 2 * (w**2).sum())


def normalised(x: np.ndarray) -> np.ndarray:
    """Each row minus its own mean, divided by its norm."""
    x = x - x.mean(1, keepdims=True)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("shots", sorted(FEWSHOT))
def test_the_recorded_few_shot_numbers(shots: str) -> None:
    data, expected = np.load(GOLDEN / "knn_input.npz"), FEWSHOT[shots]
    x, y = normalised(data["train"][expected["indices"]]), data["train_labels"][expected["indices"]]
    model = logistic.fit(x, y, l2=0.075, num_classes=10, intercept=False)
    assert model.converged
    assert model.bias is None
    assert model.objective / len(x) == pytest.approx(expected["objective_half_l2"], rel=1e-6)
    assert float(model.weight.norm()) == pytest.approx(expected["w_norm"], abs=1e-3)
    assert float((model.predict(x).numpy() == y).mean()) == expected["train_acc"]
    test = model.predict(normalised(data["test"])).numpy()
    assert float((test == data["test_labels"]).mean()) == expected["test_acc"] == expected["sk_test_acc"]


def test_the_conditions_of_the_optimum() -> None:
    x, y = raw_features(300, 32, 10)
    x = normalised(x)
    model = logistic.fit(x, y, l2=0.075, num_classes=10, intercept=False)
    w, _, objective = gradients(x, y, model, 0.075)
    # Float32 weights round the penalty's pull by 6e-8 of itself.
    assert np.linalg.norm(w) < 2e-5 * np.linalg.norm(0.075 * model.weight.numpy())
    assert np.abs(model.weight.double().numpy().sum(0)).max() < 1e-5 * float(model.weight.abs().max())
    assert model.objective == pytest.approx(objective, rel=1e-6)
    assert model.gradient_norm == pytest.approx(np.linalg.norm(w), rel=0.2)


@pytest.mark.filterwarnings("ignore:.*[Ll]ine [Ss]earch")  # theirs, asked for more digits than it has
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("l2", [1e3, 1.0, 1e-3])
def test_the_optimum_is_scikit_learns(l2: float, intercept: bool) -> None:
    x, y = raw_features(240, 20, 4)
    model = logistic.fit(x.astype(np.float64), y, l2=l2, num_classes=4, intercept=intercept, tolerance=1e-9)
    theirs = LogisticRegression(C=1 / l2, fit_intercept=intercept, tol=1e-12, max_iter=100_000, solver="newton-cg")
    theirs.fit(x.astype(np.float64), y)
    assert model.converged
    assert model.weight.dtype == torch.float64
    np.testing.assert_allclose(model.weight.numpy(), theirs.coef_, atol=2e-5 * np.abs(theirs.coef_).max())
    if intercept:
        bias = model.bias.numpy() - model.bias.numpy().mean()
        np.testing.assert_allclose(
            bias, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4 * np.abs(theirs.intercept_).max()
        )
    np.testing.assert_array_equal(model.predict(x).numpy(), theirs.predict(x.astype(np.float64)))
    single = logistic.fit(x, y, l2=l2, num_classes=4, intercept=intercept)
    assert single.converged
    assert single.weight.dtype == torch.float32
    assert float((single.weight - model.weight).norm() / model.weight.norm()) < 1e-3
    assert single.objective == pytest.approx(model.objective, rel=1e-6)


def test_two_rows_solved_by_hand() -> None:
    # x = +-1, W = (w, -w): 2 log(1 + e^(-2w)) + l2 w^2 is least where l2 w (1 + e^(2w)) = 2.
    w = brentq(lambda at: 0.5 * at * (1 + math.exp(2 * at)) - 2, 0, 5)
    model = logistic.fit(
        np.array([[1.0], [-1.0]]), np.array([0, 1]), l2=0.5, num_classes=2, intercept=False, tolerance=1e-10
    )
    np.testing.assert_allclose(model.weight.numpy(), [[w], [-w]], rtol=1e-8)
    assert model.objective == pytest.approx(2 * math.log1p(math.exp(-2 * w)) + 0.5 * w * w, rel=1e-10)


@pytest.mark.parametrize("intercept", [True, False])
def test_fewer_rows_than_features(intercept: bool) -> None:
    x, y = raw_features(30, 80, 5)
    model = logistic.fit(x, y, l2=2.0, num_classes=5, intercept=intercept)
    theirs = LogisticRegression(C=0.5, fit_intercept=intercept, tol=1e-10, max_iter=100_000).fit(
        x.astype(np.float64), y
    )
    assert model.converged
    np.testing.assert_allclose(model.weight.numpy(), theirs.coef_, atol=1e-4 * np.abs(theirs.coef_).max())


@pytest.mark.parametrize("l2", [1e5, 1e2, 1e-1, 1e-6])
def test_raw_features_converge_in_few_iterations(l2: float) -> None:
    x, y = raw_features(1500, 48, 10)
    model = logistic.fit(x, y, l2=l2, num_classes=10, intercept=True)
    assert model.converged
    assert model.iterations < 500
    w, b, objective = gradients(x, y, model, l2)
    assert model.objective == pytest.approx(objective, rel=1e-4)
    assert np.abs(b).max() < 1e-2 * max(1.0, objective) and np.isfinite(w).all()


def test_a_path_is_its_strengths_and_its_folds_their_rows() -> None:
    x, y = raw_features(400, 24, 6)
    l2s = [1.0, 300.0, 1.0, 30.0]
    folds = np.ones((3, 400), dtype=bool)
    folds[0, :100] = folds[1, 100:250] = False
    path = logistic.fit_path(x, y, l2s=l2s, num_classes=6, intercept=True, folds=folds)
    assert [[m.l2 for m in models] for models in path] == [l2s] * 3
    assert path[0][0] is path[0][2]
    for models, rows in zip(path, folds, strict=True):
        for model in models:
            alone = logistic.fit(x[rows], y[rows], l2=model.l2, num_classes=6, intercept=True)
            assert model.converged
            assert model.objective == pytest.approx(alone.objective, rel=1e-5)
            assert float((model.weight - alone.weight).norm() / alone.weight.norm()) < 2e-3
            np.testing.assert_array_equal(model.predict(x), alone.predict(x))


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_cross_validation_is_the_loop(metric: str) -> None:
    x, y = raw_features(300, 16, 5, spread=0.3)
    x, y = x[(y > 0) | (np.arange(300) % 3 == 0)], y[(y > 0) | (np.arange(300) % 3 == 0)]  # class 0 is rarer
    folds = np.arange(len(y)) % 4 != np.arange(4)[:, None]
    l2s = [1e4, 1e2, 1.0]
    found = logistic.cross_validate(x, y, l2s=l2s, num_classes=5, intercept=True, folds=folds, metric=metric)
    for i, l2 in enumerate(l2s):
        for k, rows in enumerate(folds):
            model = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000).fit(x[rows].astype(np.float64), y[rows])
            right = model.predict(x[~rows].astype(np.float64)) == y[~rows]
            recalls = [right[y[~rows] == c].mean() for c in range(5)]
            expected = right.mean() if metric == "top1" else np.mean(recalls)
            assert float(found.scores[i, k]) == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(found.mean, found.scores.mean(1))
    assert found.l2s == tuple(l2s)
    assert bool(found.converged.all())


def test_threads_and_blocks_do_not_change_predictions() -> None:
    x, y = raw_features(600, 24, 8)
    test = raw_features(2000, 24, 8, seed=1)[0]
    threads = torch.get_num_threads()

    def model(count: int, block: int | None) -> logistic.LogisticModel:
        torch.set_num_threads(count)
        try:
            return logistic.fit(x, y, l2=1e2, num_classes=8, intercept=True, block=block)
        finally:
            torch.set_num_threads(threads)

    one = model(1, None)
    for other in (model(2, 300), model(1, 70)):
        assert float((one.weight - other.weight).norm() / one.weight.norm()) < 5e-4
        assert bool((one.predict(test) == other.predict(test)).all())


def test_a_small_search_has_the_same_bits_with_any_number_of_threads(threads: Callable[[int], None]) -> None:
    x, y = raw_features(600, 24, 8, spread=0.3)
    folds = np.arange(600) % 5 != np.arange(5)[:, None]
    found = []
    for number in (1, 3):
        threads(number)
        found.append(
            logistic.cross_validate(
                x, y, l2s=[1e3, 10.0, 1e-3], num_classes=8, intercept=True, folds=folds, metric="top1", block=50
            )
        )
    assert torch.equal(found[0].scores, found[1].scores)
    assert torch.equal(found[0].relative_gradients, found[1].relative_gradients)


def test_classes_without_rows() -> None:
    x, y = raw_features(200, 12, 4)
    gap = np.array([0, 2, 3, 5])[y]
    with_bias = logistic.fit(x, gap, l2=1.0, num_classes=6, intercept=True)
    alone = logistic.fit(x, y, l2=1.0, num_classes=4, intercept=True)
    # The intercept of a class that is never seen falls without end; at the limit the class is not there.
    assert with_bias.converged
    assert with_bias.bias[[1, 4]].tolist() == [-math.inf, -math.inf]
    assert with_bias.weight[[1, 4]].abs().max() == 0
    assert float((with_bias.weight[[0, 2, 3, 5]] - alone.weight).norm() / alone.weight.norm()) < 1e-4
    assert set(with_bias.predict(x).tolist()) <= {0, 2, 3, 5}
    without = logistic.fit(x, gap, l2=1.0, num_classes=6, intercept=False)
    assert without.converged
    assert bool(torch.isfinite(without.weight).all())
    assert np.linalg.norm(gradients(x, gap, without, 1.0)[0]) < 1e-2


def test_the_gradient_bounds_the_distance_to_the_optimum() -> None:
    x, y = raw_features(200, 12, 4)
    best = logistic.fit(x.astype(np.float64), y, l2=5.0, num_classes=4, intercept=False, tolerance=1e-10)
    rough = logistic.fit(x.astype(np.float64), y, l2=5.0, num_classes=4, intercept=False, tolerance=1e-2)
    assert 0 < rough.objective - best.objective <= rough.gradient_norm**2 / 10


def test_what_has_not_converged_says_so() -> None:
    x, y = raw_features(200, 12, 4)
    model = logistic.fit(x, y, l2=1e-3, num_classes=4, intercept=True, max_iterations=2)
    assert not model.converged
    assert model.iterations <= 2
    assert model.relative_gradient > 1e-5
    # Nothing can reach this; the search ends long before the last iteration.
    model = logistic.fit(x, y, l2=1.0, num_classes=4, intercept=True, tolerance=1e-20, max_iterations=100_000)
    assert not model.converged
    assert model.relative_gradient < 1e-9
    assert model.iterations < 5000


def test_what_float32_cannot_reach_goes_on_in_float64() -> None:
    x, y = raw_features(200, 12, 4)
    single, double = (
        logistic.fit(a, y, l2=1e-2, num_classes=4, intercept=True, tolerance=1e-9) for a in (x, x.astype(np.float64))
    )
    assert single.converged
    assert single.weight.dtype == torch.float32
    torch.testing.assert_close(single.weight.double(), double.weight, rtol=1e-6, atol=1e-6)


def test_features_of_zeros_and_a_mapped_file(tmp_path: Path) -> None:
    zeros = logistic.fit(np.zeros((4, 3), np.float32), np.array([0, 1, 1, 1]), l2=1.0, num_classes=2, intercept=True)
    assert zeros.converged
    np.testing.assert_allclose(zeros.scores(np.zeros((1, 3), np.float32)).softmax(1), [[0.25, 0.75]], atol=1e-5)
    x, y = raw_features(100, 6, 3)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    one, other = (logistic.fit(a, y, l2=1.0, num_classes=3, intercept=True) for a in (x, mapped))
    assert torch.equal(one.weight, other.weight)
    assert one.predict(mapped[:0]).shape == (0,)


def bad(**changes: object) -> Callable[[], object]:
    x, y = raw_features(20, 4, 3)
    settings: dict[str, object] = {"l2s": [1.0], "num_classes": 3, "intercept": True, "x": x, "y": y} | changes
    return lambda: logistic.fit_path(settings.pop("x"), settings.pop("y"), **settings)  # type: ignore[arg-type]


def with_nan() -> np.ndarray:
    x = raw_features(20, 4, 3)[0]
    x[7, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("run", "kind", "words"),
    [
        (bad(l2s=[0.0]), SettingsError, "l2 > 0"),
        (bad(l2s=[-1.0], intercept=False), SettingsError, "l2 > 0"),
        (bad(l2s=[1.0, math.nan]), SettingsError, "nan"),
        (bad(l2s=[]), SettingsError, "at least one"),
        (bad(num_classes=1), SettingsError, "num_classes"),
        (bad(num_classes=2), DataError, "labels from 0 to 1"),
        (bad(y=np.arange(20) - 1, num_classes=30), DataError, "first of them -1"),
        (bad(y=np.zeros(20, np.int64)), DataError, "single class, 0"),
        (bad(y=np.zeros(19, np.int64)), DataError, "[19]"),
        (bad(y=np.zeros(20)), DataError, "integer labels"),
        (bad(x=with_nan()), DataError, "x, row 7"),
        (bad(x=raw_features(20, 4, 3)[0] * np.float32(1e28)), DataError, "overflow"),
        (bad(x=np.zeros(20, np.float32)), DataError, "[20]"),
        (bad(x=np.zeros((20, 0), np.float32)), DataError, "[20, 0]"),
        (bad(folds=np.ones((2, 19), bool)), SettingsError, "folds"),
        (bad(folds=np.ones((2, 20))), SettingsError, "bool"),
        (bad(folds=np.zeros((1, 20), bool)), DataError, "no row"),
        (bad(tolerance=0.0), SettingsError, "tolerance"),
    ],
)
def test_what_cannot_be_fitted_is_refused(run: Callable[[], object], kind: type[EvaltkError], words: str) -> None:
    with pytest.raises(kind) as caught:
        run()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_refusals() -> None:
    x, y = raw_features(20, 4, 3)
    model = logistic.fit(x, y, l2=1.0, num_classes=3, intercept=True)
    with pytest.raises(DataError, match="like those of the fit"):
        model.predict(x[:, :3])
    with pytest.raises(DataError, match="row 7"):
        model.scores(with_nan())
    folds = np.ones((1, 20), bool)
    with pytest.raises(SettingsError, match="trains on all rows"):
        logistic.cross_validate(x, y, l2s=[1.0], num_classes=3, intercept=True, folds=folds, metric="top1")
    with pytest.raises(SettingsError, match="mean_per_class"):
        logistic.cross_validate(x, y, l2s=[1.0], num_classes=3, intercept=True, folds=folds, metric="top-1")  # type: ignore[arg-type]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(SettingsError, match="full precision"):
            logistic.fit(x, y, l2=1.0, num_classes=3, intercept=True)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
def test_the_gpu_finds_the_same_optimum() -> None:
    x, y = raw_features(1000, 40, 8)
    for l2 in (1e3, 1.0):
        here, there = (logistic.fit(x, y, l2=l2, num_classes=8, intercept=True, device=d) for d in ("cpu", "cuda"))
        assert there.converged
        assert there.weight.is_cuda
        assert float((there.weight.cpu() - here.weight).norm() / here.weight.norm()) < 5e-4
        assert bool((there.predict(x).cpu() == here.predict(x)).all())
