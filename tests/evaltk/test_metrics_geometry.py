"""Geometry of features against slow versions of the formulas, and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg
from sklearn.neighbors import NearestNeighbors

from evaltk.errors import DataError
from evaltk.metrics import geometry

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 7)) * np.arange(1, 8)


def entropy_rank(values: np.ndarray) -> float:
    p = [v / sum(values) + 1e-7 for v in values]
    return math.exp(-sum(v * math.log(v) for v in p))


def test_rankme() -> None:
    slow = entropy_rank(np.sqrt(np.linalg.eigvalsh(X.T @ X).clip(min=0)))
    assert geometry.rankme(X) == pytest.approx(slow)
    assert geometry.rankme(np.ones((9, 5))) == pytest.approx(1, abs=1e-4)  # all rows alike
    with pytest.raises(DataError, match="differ from zero"):
        geometry.rankme(np.zeros((3, 3)))


def test_lidar() -> None:
    views = RNG.normal(size=(12, 1, 5)) * 3 + RNG.normal(size=(12, 4, 5))
    centre = views.mean((0, 1))
    between, within = np.zeros((5, 5)), 1e-4 * np.eye(5)
    for image in views:
        m = image.mean(0)
        between += np.outer(m - centre, m - centre) / 11
        for view in image:
            within += np.outer(view - m, view - m) / (12 * 3)
    # The generalised problem B v = l W v has the eigenvalues of W^-1/2 B W^-1/2.
    assert geometry.lidar(views) == pytest.approx(entropy_rank(linalg.eigh(between, within, eigvals_only=True)))
    with pytest.raises(DataError, match="views"):
        geometry.lidar(views[:, :1])


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_two_nn(dim: int) -> None:
    x = np.concatenate([RNG.random((1500, dim)), np.zeros((1500, 3))], axis=1) @ RNG.normal(size=(dim + 3, dim + 3))
    found, used = geometry.two_nn(x)
    distance = NearestNeighbors(n_neighbors=3).fit(x).kneighbors(x)[0]
    mu = sorted((d[2] / d[1]) for d in distance)
    top = bottom = 0.0
    for i, m in enumerate(mu[:1350], 1):
        top += math.log(m) * -math.log(1 - i / 1500)
        bottom += math.log(m) ** 2
    assert used == 1500 and found == pytest.approx(top / bottom, rel=1e-6)
    assert found == pytest.approx(dim, rel=0.15)


def test_two_nn_leaves_duplicates_out() -> None:
    x = RNG.random((200, 2))
    twice = np.concatenate([x, x[:50]])
    assert geometry.two_nn(twice)[1] == 150
    with pytest.raises(DataError, match="unlike all others"):
        geometry.two_nn(np.repeat(x[:20], 2, axis=0))


def test_uniformity_and_alignment() -> None:
    u = X / np.linalg.norm(X, axis=1, keepdims=True)
    pairs = [math.exp(-2 * ((u[i] - u[j]) ** 2).sum()) for i in range(60) for j in range(60) if i != j]
    assert geometry.uniformity(X) == pytest.approx(math.log(sum(pairs) / len(pairs)))
    assert geometry.uniformity(np.ones((5, 3))) == pytest.approx(0)
    other = X + RNG.normal(size=X.shape)
    v = other / np.linalg.norm(other, axis=1, keepdims=True)
    assert geometry.alignment(X, other) == pytest.approx(np.mean([((a - b) ** 2).sum() for a, b in zip(u, v)]))  # noqa: B905
    assert geometry.alignment(X, 3 * X) == pytest.approx(0)


def test_dead_dimensions() -> None:
    x = X.copy()
    x[:, 2] = 4
    x[:, 5] = 1e-3 * x[:, 5]
    assert geometry.dead_dimensions(x) == pytest.approx(2 / 7)
    assert geometry.dead_dimensions(np.ones((4, 3))) == 1


@pytest.mark.parametrize("width", [4, 90])
def test_cka(width: int) -> None:
    a, b = X, np.tanh(X @ RNG.normal(size=(7, width)))
    h = np.eye(60) - 1 / 60

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return float(np.trace(k @ h @ m @ h)) / 59**2

    k, m = a @ a.T, b @ b.T
    assert geometry.linear_cka(a, b) == pytest.approx(hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m)))
    turned = a @ linalg.qr(RNG.normal(size=(7, 7)))[0] * 5 + 3
    assert geometry.linear_cka(a, turned) == pytest.approx(1)
    assert math.isnan(geometry.linear_cka(a, np.ones((60, 2))))
    with pytest.raises(DataError, match="same images"):
        geometry.linear_cka(a, b[:-1])
