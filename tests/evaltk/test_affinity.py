"""Windowed propagation of labels against a loop over all pairs, in float64, written from the formula.

Where tokens are equal, their labels are compared to the bit: over block sizes, numbers of threads, and places.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from evaltk import fixed_order
from protocols.vos import affinity, unit_tokens
from protocols.vos.affinity import AffinityConfig, Contexts, propagate_labels


def plain(
    target: np.ndarray, frames: list[np.ndarray], labels: list[np.ndarray], radius: int, topk: int, temperature: float
) -> np.ndarray:
    """Soft labels [h, w, C] by the formula, one target at a time, from tokens [h, w, D] and labels [h, w, C]."""
    h, w, _ = target.shape
    unit = [f.astype(np.float64) / np.linalg.norm(f.astype(np.float64), axis=2, keepdims=True) for f in frames]
    found = np.zeros((h, w, labels[0].shape[2]))
    for i, j in itertools.product(range(h), range(w)):
        t = target[i, j].astype(np.float64) / np.linalg.norm(target[i, j].astype(np.float64))
        candidates = []
        for f, label in zip(unit, labels, strict=True):
            for y, x in itertools.product(range(h), range(w)):
                if abs(y - i) <= radius and abs(x - j) <= radius:
                    candidates.append((float(np.exp(f[y, x] @ t / temperature)), label[y, x]))
        weights = np.array([a for a, _ in candidates])
        theta = np.sort(weights)[::-1][min(topk, len(weights)) - 1]
        weights = np.where(weights >= theta * (1 - 1e-9), weights, 0)
        found[i, j] = (weights[:, None] * np.array([v for _, v in candidates])).sum(axis=0) / weights.sum()
    return found


def video(h: int, w: int, num: int, *, seed: int = 0, dim: int = 6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens of `num` frames and the target, and soft labels of the frames."""
    rng = np.random.default_rng(seed)
    tokens = [rng.standard_normal((h, w, dim)).astype(np.float32) for _ in range(num + 1)]
    return tokens, [rng.dirichlet(np.ones(3), (h, w)).astype(np.float32) for _ in range(num)]


def filled(tokens: list[np.ndarray], labels: list[np.ndarray], *, previous: int) -> Contexts:
    contexts = Contexts(torch.from_numpy(tokens[0]), torch.from_numpy(labels[0]), previous=previous)
    for f, v in zip(tokens[1:], labels[1:], strict=False):
        contexts.push(torch.from_numpy(f), torch.from_numpy(v))
    return contexts


@pytest.mark.parametrize(("h", "w"), [(7, 9), (9, 4), (3, 12), (1, 5)])
@pytest.mark.parametrize("radius", [0, 2, 20])
def test_a_frame_is_that_of_a_loop_over_all_pairs(h: int, w: int, radius: int) -> None:
    tokens, labels = video(h, w, 3)
    rules = AffinityConfig(radius=radius, topk=4)
    found = propagate_labels(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), rules)
    np.testing.assert_allclose(found.numpy(), plain(tokens[-1], tokens[:3], labels, radius, 4, 0.1), atol=2e-6)


def test_the_queue_keeps_the_first_frame_and_the_last_few() -> None:
    tokens, labels = video(5, 6, 6)
    contexts = filled(tokens[:6], labels, previous=2)
    found = propagate_labels(torch.from_numpy(tokens[-1]), contexts, AffinityConfig(radius=2))
    kept = [0, 4, 5]
    expected = plain(tokens[-1], [tokens[i] for i in kept], [labels[i] for i in kept], 2, 5, 0.1)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)
    assert contexts.tokens.shape[2] == 3


def test_without_previous_frames_the_first_alone_is_looked_at() -> None:
    tokens, labels = video(4, 4, 3)
    found = propagate_labels(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=0), AffinityConfig(radius=1))
    np.testing.assert_allclose(found.numpy(), plain(tokens[-1], tokens[:1], labels[:1], 1, 5, 0.1), atol=2e-6)


def test_block_sizes_change_nothing() -> None:
    tokens, labels = video(11, 13, 4, seed=1)
    contexts, target = filled(tokens, labels, previous=7), torch.from_numpy(tokens[-1])
    whole = propagate_labels(target, contexts, AffinityConfig(radius=3, tile=11, scratch=1 << 30))
    for tile, scratch in itertools.product((1, 2, 5, 7), (1, 1 << 14, 1 << 20)):
        part = propagate_labels(target, contexts, AffinityConfig(radius=3, tile=tile, scratch=scratch))
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=0)


def test_equal_neighbours_beyond_the_last_are_all_kept() -> None:
    # Tokens are unit vectors of few directions: cosines are exactly 0 or 1, and nearly every target has ties.
    rng = np.random.default_rng(3)
    _, labels = video(6, 7, 3)
    tokens = [np.eye(4, dtype=np.float32)[rng.integers(0, 4, (6, 7))] for _ in range(4)]
    found = propagate_labels(
        torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), AffinityConfig(radius=1, topk=2)
    )
    np.testing.assert_allclose(found.numpy(), plain(tokens[-1], tokens[:3], labels, 1, 2, 0.1), atol=2e-6)


def test_a_still_image_without_features_averages_its_window() -> None:
    _, labels = video(5, 5, 1)
    same = [np.ones((5, 5, 4), dtype=np.float32)] * 2
    found = propagate_labels(
        torch.from_numpy(same[0]), filled(same, labels, previous=7), AffinityConfig(radius=1, topk=5)
    )
    np.testing.assert_allclose(found[2, 2], labels[0][1:4, 1:4].mean(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(found[0, 0], labels[0][:2, :2].mean(axis=(0, 1)), atol=1e-6)


def test_fewer_neighbours_than_asked_for_are_all_kept() -> None:
    tokens, labels = video(1, 2, 1)
    found = propagate_labels(
        torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), AffinityConfig(radius=12, topk=5)
    )
    np.testing.assert_allclose(found.numpy(), plain(tokens[-1], tokens[:1], labels, 12, 5, 0.1), atol=2e-6)


def test_a_small_temperature_does_not_overflow() -> None:
    tokens, labels = video(4, 4, 2)
    found = propagate_labels(
        torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), AffinityConfig(radius=2, temperature=1e-3)
    )
    assert bool(torch.isfinite(found).all())
    np.testing.assert_allclose(found.sum(dim=2), 1, atol=1e-5)


def canonical(
    target: np.ndarray, frames: list[np.ndarray], labels: list[np.ndarray], radius: int, topk: int
) -> np.ndarray:
    """`plain`, but equal tokens have equal similarities: of float32 unit tokens, added up exactly."""
    h, w, _ = target.shape
    unit = [(f / np.sqrt((f.astype(np.float64) ** 2).sum(axis=2, keepdims=True))).astype(np.float32) for f in frames]
    mine = (target / np.sqrt((target.astype(np.float64) ** 2).sum(axis=2, keepdims=True))).astype(np.float32)
    known: dict[bytes, float] = {}
    found = np.zeros((h, w, labels[0].shape[2]))
    for i, j in itertools.product(range(h), range(w)):
        near = (slice(max(0, i - radius), i + radius + 1), slice(max(0, j - radius), j + radius + 1))
        values = np.concatenate([v[near].reshape(-1, v.shape[2]) for v in labels]).astype(np.float64)
        cosines = []
        for token in np.concatenate([f[near].reshape(-1, f.shape[2]) for f in unit]):
            pair = mine[i, j].tobytes() + token.tobytes()
            if pair not in known:
                known[pair] = math.fsum(float(a) * float(b) for a, b in zip(mine[i, j], token, strict=True))
            cosines.append(known[pair])
        cosine = np.array(cosines)
        threshold = np.sort(cosine)[::-1][min(topk, len(cosine)) - 1]
        weights = np.where(cosine >= threshold, np.exp((cosine - cosine.max()) / 0.1), 0)
        found[i, j] = weights @ values / weights.sum()
    return found


def repeated(kind: str, h: int, w: int, num: int, dim: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """As `video`, of tokens that repeat: a texture, one token everywhere, or frames that stand still."""
    rng = np.random.default_rng(5)
    palette = rng.standard_normal((6, dim)).astype(np.float32)
    palette[3] = palette[2] * np.float32(1 + 2**-22)  # all but equal to its neighbour, but another token
    palette[4, 1:] = palette[5, 1:]
    palette[4, 0] = np.nextafter(palette[5, 0], np.float32(9))
    still = rng.standard_normal((h, w, dim)).astype(np.float32)
    make: dict[str, Callable[[], np.ndarray]] = {
        "texture": lambda: palette[rng.integers(0, 6, (h, w))],
        "identical": lambda: np.broadcast_to(palette[0], (h, w, dim)).copy(),
        "still": lambda: still,
    }
    return [make[kind]() for _ in range(num + 1)], [rng.dirichlet(np.ones(3), (h, w)).astype(np.float32)] * num


@pytest.mark.parametrize(("kind", "dim"), [("texture", 64), ("texture", 384), ("identical", 64), ("still", 37)])
def test_equal_tokens_get_equal_labels_in_any_block_and_on_any_number_of_threads(
    kind: str, dim: int, threads: Callable[[int], None]
) -> None:
    tokens, labels = repeated(kind, 11, 13, 3, dim)
    expected = canonical(tokens[-1], tokens[:3], labels, 3, 5)
    whole = None
    for number, tile, scratch in itertools.product((1, 2, 3), (1, 4, 11), (1, None)):
        threads(number)
        contexts = filled(tokens, labels, previous=7)
        part = propagate_labels(
            torch.from_numpy(tokens[-1]), contexts, AffinityConfig(radius=3, tile=tile, scratch=scratch)
        )
        whole = part if whole is None else whole
        assert torch.equal(part, whole)
    assert whole is not None
    np.testing.assert_allclose(whole.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("off", [-1.0, 1.0])
def test_a_product_that_rounds_otherwise_changes_no_digit(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    # Another processor: every similarity of the product is off by up to what `doubt` grants.
    bmm, draw = torch.bmm, torch.Generator().manual_seed(0)

    def other(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        exact = bmm(a.double(), b.double())
        return (exact + off * unit_tokens.doubt(a.shape[2]) * (torch.rand(exact.shape, generator=draw) - 0.01)).float()

    for tokens, labels in (video(9, 10, 3, dim=64), repeated("texture", 9, 10, 3, 64)):
        contexts, target = filled(tokens, labels, previous=7), torch.from_numpy(tokens[-1])
        here = propagate_labels(target, contexts, AffinityConfig(radius=3))
        monkeypatch.setattr(torch, "bmm", other)
        there = propagate_labels(target, contexts, AffinityConfig(radius=3))
        monkeypatch.undo()
        assert torch.equal(here, there)


def test_many_pairs_are_worked_out_once_for_equal_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, labels = repeated("texture", 9, 10, 3, 8)
    monkeypatch.setattr(affinity, "MANY", 1 << 30)
    each = propagate_labels(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), AffinityConfig(radius=3))
    monkeypatch.setattr(affinity, "MANY", 0)
    once = propagate_labels(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), AffinityConfig(radius=3))
    assert torch.equal(each, once)


def test_the_first_of_equal_rows_stands_for_them() -> None:
    rows = torch.tensor([[1.0, 2], [3, 4], [1, 2], [4, 3], [3, 4], [0, 0]])
    assert unit_tokens.first_equal(rows).tolist() == [0, 1, 0, 3, 1, 5]


def test_rows_of_one_sum_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randint", lambda low, high, size, generator: torch.zeros(size, dtype=torch.int64))
    rows = torch.tensor([[1.0, 2], [3, 4], [1, 2], [3, 4]])
    assert unit_tokens.first_equal(rows).tolist() == [0, 1, 0, 3]  # a colliding one is alone at worst, never mistaken


@pytest.mark.parametrize("dim", [1, 6, 64, 384, 1024])
def test_products_are_no_further_off_than_said(dim: int) -> None:
    draw = torch.Generator().manual_seed(dim)
    a = torch.randn(400, dim, generator=draw) * 10 ** torch.randn(400, dim, generator=draw)
    b = torch.randn(400, dim, generator=draw)
    b[:100] = a[:100]
    a, b = unit_tokens.unit(a), unit_tokens.unit(b)
    exact = fixed_order.dot(a, b)
    one_by_one = torch.zeros(400)  # the worst order there is
    for i in range(dim):
        one_by_one += a[:, i] * b[:, i]
    for product in (one_by_one, (a @ b.T).diagonal(), torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]):
        assert float((product.double() - exact).abs().max()) <= unit_tokens.doubt(dim)


def test_units_are_those_of_numpy_to_the_bit_and_zeros_stay() -> None:
    tokens = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)) * 1e20  # the square is beyond float32
    x = tokens.double().numpy() ** 2
    total = (x[:, :4] + x[:, 4:]).T
    total = (total[0] + total[2]) + (total[1] + total[3])
    expected = (tokens.double().numpy() / np.sqrt(total)[:, None]).astype(np.float32)
    np.testing.assert_array_equal(unit_tokens.unit(tokens).numpy(), expected)
    assert not bool(unit_tokens.unit(torch.zeros(2, 8)).any())


def test_products_of_lower_precision_are_not_used(threads: Callable[[int], None]) -> None:
    tokens, labels = video(7, 9, 3, dim=64)
    before = torch.get_float32_matmul_precision()
    expected = propagate_labels(
        torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), AffinityConfig(radius=3)
    )
    try:
        for number in (1, 2):
            threads(number)
            torch.set_float32_matmul_precision("medium")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = propagate_labels(
                    torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), AffinityConfig(radius=3)
                )
            assert torch.get_float32_matmul_precision() == "medium"
            assert torch.equal(found, expected)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
def test_a_gpu_gives_the_same() -> None:
    tokens, labels = video(11, 13, 4)
    on_cpu = propagate_labels(
        torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), AffinityConfig(radius=3)
    )
    contexts = Contexts(torch.from_numpy(tokens[0]).cuda(), torch.from_numpy(labels[0]).cuda(), previous=7)
    for f, v in zip(tokens[1:4], labels[1:], strict=True):
        contexts.push(torch.from_numpy(f).cuda(), torch.from_numpy(v).cuda())
    on_gpu = propagate_labels(torch.from_numpy(tokens[-1]).cuda(), contexts, AffinityConfig(radius=3))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-5, rtol=0)
