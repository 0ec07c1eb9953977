"""Sets of duplicates: hand-sized cases, properties, and a slow float64 loop over all pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaltk.errors import DataError, SettingsError
from evaltk.prototypes.duplicates import METHODS, duplicate_sets, order_sensitivity, readings, scan
from evaltk.prototypes.graph import Directions, count_edges, margin
from protocols import prototypes


def around(*degrees: float) -> np.ndarray:
    """Unit rows in the plane at these angles."""
    a = np.radians(degrees)
    return np.stack([np.cos(a), np.sin(a)], axis=1)


def slow(w: np.ndarray, threshold: float) -> dict[str, tuple[int, int]]:
    """(unique, largest) of each reading from all pairs in float64."""
    w = w.astype(np.float64)
    num = len(w)
    norm = np.linalg.norm(w, axis=1)
    edge = np.zeros((num, num), dtype=bool)
    for i in range(num):
        edge[i] = (w @ w[i]) / (norm * norm[i]) > threshold
        edge[i, i] = False
    degree = edge.sum(axis=1)

    def leaders(order: np.ndarray) -> tuple[int, int]:
        free, sizes = np.ones(num, dtype=bool), []
        for i in order:
            if free[i]:
                free[i] = False
                taken = edge[i] & free
                free &= ~taken
                sizes.append(1 + int(taken.sum()))
        return len(sizes), max(sizes)

    seen, sizes = np.zeros(num, dtype=bool), []
    for i in range(num):
        stack, size = ([] if seen[i] else [i]), 0
        seen[i] = True
        while stack:
            at = stack.pop()
            size += 1
            new = np.flatnonzero(edge[at] & ~seen)
            seen[new] = True
            stack += new.tolist()
        if size:
            sizes.append(size)
    first = sum(not edge[i, :i].any() for i in range(num))
    return {
        "leader": leaders(np.arange(num)),
        "first-seen": (first, int(degree.max()) + 1),
        "components": (len(sizes), max(sizes)),
        "largest-first": leaders(np.argsort(-degree, kind="stable")),
    }


# Five rows 20 degrees apart; above cos 25 degrees each has its neighbours as duplicates: a chain 0-1-2-3-4.
CHAIN = around(0, 20, 40, 60, 80)
NEAR = float(np.cos(np.radians(25)))


@pytest.mark.parametrize(
    ("method", "owner", "sizes", "largest"),
    [
        ("leader", [0, 0, 2, 2, 4], [2, 2, 1], 2),
        ("first-seen", [0, 0, 1, 2, 3], [2], 3),
        ("components", [0, 0, 0, 0, 0], [5], 5),
        ("largest-first", [1, 1, 1, 3, 3], [3, 2], 3),
    ],
)
def test_chain_by_hand(method: str, owner: list[int], sizes: list[int], largest: int) -> None:
    found = prototypes.duplicate_sets(CHAIN, NEAR, method=method)
    assert found.owner.tolist() == owner
    assert found.sizes.tolist() == sizes
    assert (found.num_unique, found.largest) == (len(sizes), largest)


def test_orders_matter_to_leader_alone() -> None:
    directions = Directions(CHAIN)
    assert len(set(scan(directions, NEAR, np.array([1, 3, 0, 2, 4])).tolist())) == 2
    unique, largest = order_sensitivity(directions, NEAR, generator=torch.Generator().manual_seed(0), permutations=20)
    assert set(unique.tolist()) == {2, 3}
    assert set(largest.tolist()) <= {2, 3}


@pytest.mark.parametrize("method", METHODS)
def test_threshold_is_strict(method: str) -> None:
    w = np.array([[1, 0, 0, 0], [1, 1, 1, 1]], dtype=np.float32)  # the cosine is 0.5 without rounding
    assert duplicate_sets(w, 0.5, method=method).num_unique == 2
    assert duplicate_sets(w, np.nextafter(0.5, 0), method=method).num_unique == 1


@pytest.mark.parametrize("method", METHODS)
def test_norm_and_dtype_do_not_matter(method: str) -> None:
    w = CHAIN * np.array([[1e-3], [1], [1e3], [7], [0.1]])
    wanted = duplicate_sets(CHAIN, NEAR, method=method).sizes.tolist()
    assert duplicate_sets(w, NEAR, method=method).sizes.tolist() == wanted
    assert duplicate_sets(torch.from_numpy(w).float(), NEAR, method=method).sizes.tolist() == wanted


@pytest.mark.parametrize("method", METHODS)
def test_a_single_prototype(method: str) -> None:
    found = duplicate_sets(np.ones((1, 3)), 0.9, method=method)
    assert (found.num_unique, found.largest, found.owner.tolist()) == (1, 1, [0])


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_all_pairs_in_float64(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((500, int(rng.integers(2, 8))), dtype=np.float32)
    if seed % 2:
        block = rng.permutation(500)[:250]
        w[block] = rng.standard_normal(w.shape[1]) + 0.1 * rng.standard_normal((250, w.shape[1]))
    directions = Directions(w)
    directions.tile = 96  # so that components and degrees cross tiles
    thresholds = (-0.5, 0.3, 0.7, 0.9, 0.99)
    found = readings(directions, thresholds)
    for threshold in thresholds:
        told = {m: (found[m, threshold].num_unique, found[m, threshold].largest) for m in METHODS}
        assert told == slow(w, threshold)
        for method in METHODS:
            owner = found[method, threshold].owner
            assert (owner == np.arange(500)).sum() == found[method, threshold].num_unique


def test_pairs_at_the_threshold_are_those_of_float64() -> None:
    """200 rows whose cosine with the first lies within a few 1e-9 of the threshold, on either side."""
    rng = np.random.default_rng(0)
    angles = np.arccos(0.9) + rng.uniform(-5e-9, 5e-9, 200)
    first = np.zeros((1, 300))
    first[0, 0] = 1
    others = np.zeros((200, 300))
    others[:, 0] = np.cos(angles)
    others[np.arange(200), 1 + np.arange(200)] = np.sin(angles)
    w = np.concatenate([first, others])
    found = duplicate_sets(w, 0.9)
    assert found.largest == 1 + int((others[:, 0] / np.linalg.norm(others, axis=1) > 0.9).sum())
    assert 50 < found.largest < 150
    assert count_edges(Directions(w), (0.9,))[0].degree[0] == found.largest - 1


rows = arrays(np.float64, st.tuples(st.integers(2, 25), st.integers(1, 3)), elements=st.floats(-1, 1, width=16))


@settings(max_examples=60, deadline=None)
@given(w=rows, threshold=st.floats(-0.95, 0.99))
def test_orderings(w: np.ndarray, threshold: float) -> None:
    w = w[np.linalg.norm(w, axis=1) > 0]
    if not len(w):
        return
    found = {method: sets for (method, _), sets in readings(w, (threshold,)).items()}
    unique = [found[m].num_unique for m in ("components", "first-seen", "leader")]
    largest = [found[m].largest for m in ("leader", "first-seen", "components")]
    assert unique == sorted(unique)
    assert largest == sorted(largest)
    assert found["components"].num_unique <= found["largest-first"].num_unique
    for method in ("leader", "components", "largest-first"):
        assert found[method].sizes.sum() == len(w)


def test_void_block_among_clusters() -> None:
    """6,000 prototypes, 3,000 of them one tight block: all readings find its size, and differ on the clusters."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((300, 64))
    spread = rng.uniform(0.02, 0.12, 300)
    which = rng.integers(0, 300, 3_000)
    clusters = centres[which] / np.linalg.norm(centres[which], axis=1, keepdims=True)
    clusters += spread[which, None] * rng.standard_normal((3_000, 64))
    block = rng.standard_normal(64) / 8 + 0.002 * rng.standard_normal((3_000, 64))
    w = rng.permutation(np.concatenate([block, clusters])).astype(np.float32)
    found = readings(w, (0.8, 0.9))
    for threshold in (0.8, 0.9):
        assert {found[m, threshold].largest for m in METHODS} == {3_000}
    counts = [found[m, 0.9].num_unique for m in ("components", "first-seen", "leader")]
    assert counts[0] < counts[1] < counts[2]  # diffuse clusters tell the readings apart
    assert found["leader", 0.8].num_unique < found["leader", 0.9].num_unique


def test_prototypes_without_direction_are_named() -> None:
    w = np.ones((5, 3))
    w[2], w[4, 1] = 0, np.nan
    with pytest.raises(DataError, match=r"2 of 5 without: 2 \(zero\), 4 \(not finite\)"):
        duplicate_sets(w, 0.9)
    with pytest.raises(DataError, match="matrix"):
        duplicate_sets(np.ones(5), 0.9)


@pytest.mark.parametrize("threshold", [-1.0, 1.0, 1.5, float("nan")])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(SettingsError, match=r"\(-1, 1\)"):
        duplicate_sets(CHAIN, threshold)


def test_unknown_reading() -> None:
    with pytest.raises(SettingsError, match="leader"):
        duplicate_sets(CHAIN, 0.9, method="leaders")


@pytest.fixture(params=["highest", "high", "medium"])
def allowed(request: pytest.FixtureRequest) -> Iterator[str]:
    """What float32 products a process allows: TF32 or bfloat16 where the device has them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def adverse(dim: int) -> np.ndarray:
    """Rows whose products round badly: all of one sign, falling and rising sizes, cancelling, drawn at random."""
    rng = np.random.default_rng(dim)
    fall = 2.0 ** -np.linspace(0, 12, dim)
    signs = np.where(np.arange(dim) % 2, 1.0, -1.0)
    rows = [np.ones(dim) + 1e-7, fall, fall[::-1], signs * fall, signs, *rng.standard_normal((11, dim))]
    return np.stack(rows + [rng.uniform(0.3, 1, dim) for _ in range(16)])


@pytest.mark.parametrize("dim", [2, 3, 17, 256, 768, 2048])
def test_products_lie_within_the_margin(dim: int, allowed: str) -> None:
    directions = Directions(adverse(dim))
    product = directions.similarities(directions.unit, directions.unit).double().numpy()
    unit = directions.given / np.array([[math.sqrt(math.fsum(row * row))] for row in directions.given])
    wanted = np.array([[math.fsum(a * b) for b in unit] for a in unit])
    assert abs(product - wanted).max() <= margin(dim)
    assert margin(256) == pytest.approx(264 * 2**-24, rel=2e-5)
    num = np.arange(len(unit))
    pairs = directions.exact(num.repeat(len(unit)), np.tile(num, len(unit))).reshape(wanted.shape)
    assert abs(pairs - wanted).max() <= (dim + 8) * 2.0**-53
    np.testing.assert_array_equal(pairs, pairs.T)


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [3, 256, 2048])
def test_products_lie_within_the_margin_on_a_gpu(dim: int, allowed: str) -> None:
    there, here = (Directions(adverse(dim), device=device) for device in ("cuda", "cpu"))
    num = np.arange(len(here))
    exact = here.exact(num.repeat(len(num)), np.tile(num, len(num))).reshape(len(num), -1)
    product = there.similarities(there.unit, there.unit).double().cpu().numpy()
    assert abs(product - exact).max() <= margin(dim)


def test_whatever_the_margin_leaves_open_changes_nothing() -> None:
    """Float32 products that are off by as much as another processor's may be: the edges stay."""
    w = np.random.default_rng(0).standard_normal((40, 3))
    w = np.concatenate([w, w[:20] * 3.0, w[:10]])
    directions = Directions(w)
    num = np.arange(len(w))
    product = directions.similarities(directions.unit, directions.unit)
    noise = torch.rand(product.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for threshold in (float(directions.exact(num[:1], num[1:2])[0]), 0.5, 0.99, 1 - 1e-12):
        edges = [
            directions.edges(block, num, num, threshold)
            for block in (product, product + 0.5 * margin(3) * noise, product - 0.5 * margin(3) * noise)
        ]
        assert all(torch.equal(edges[0], other) for other in edges[1:])


def test_equal_pairs_have_equal_cosines() -> None:
    """Two rows and copies of them, many times over: one cosine, however many pairs stand beside it."""
    a, b = np.random.default_rng(0).standard_normal((2, 300)).astype(np.float32)
    directions = Directions(np.concatenate([np.tile(a, (37, 1)), np.tile(b, (41, 1))]))
    first, second = np.meshgrid(np.arange(37), np.arange(37, 78))
    many = directions.exact(first.ravel(), second.ravel())
    assert set(many.tolist()) == {float(directions.exact(np.array([40]), np.array([3]))[0])}
    # A threshold that is that very cosine is not exceeded, by any of the pairs; just below it all exceed it.
    at = float(many[0])
    assert duplicate_sets(directions.given, at, method="components").num_unique == 2
    assert duplicate_sets(directions.given, float(np.nextafter(at, -1)), method="components").num_unique == 1
