"""Windowed propagation of labels against a loop over all pairs, in float64, written from the formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from protocols.vos.affinity import Contexts, Rules, carry


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
    rules = Rules(radius=radius, topk=4)
    found = carry(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), rules)
    np.testing.assert_allclose(found.numpy(), plain(tokens[-1], tokens[:3], labels, radius, 4, 0.1), atol=2e-6)


def test_the_queue_keeps_the_first_frame_and_the_last_few() -> None:
    tokens, labels = video(5, 6, 6)
    contexts = filled(tokens[:6], labels, previous=2)
    found = carry(torch.from_numpy(tokens[-1]), contexts, Rules(radius=2))
    kept = [0, 4, 5]
    expected = plain(tokens[-1], [tokens[i] for i in kept], [labels[i] for i in kept], 2, 5, 0.1)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)
    assert contexts.tokens.shape[2] == 3


def test_without_previous_frames_the_first_alone_is_looked_at() -> None:
    tokens, labels = video(4, 4, 3)
    found = carry(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=0), Rules(radius=1))
    np.testing.assert_allclose(found.numpy(), plain(tokens[-1], tokens[:1], labels[:1], 1, 5, 0.1), atol=2e-6)


def test_block_sizes_change_nothing() -> None:
    tokens, labels = video(11, 13, 4, seed=1)
    contexts, target = filled(tokens, labels, previous=7), torch.from_numpy(tokens[-1])
    whole = carry(target, contexts, Rules(radius=3, tile=11, scratch=1 << 30))
    for tile, scratch in itertools.product((1, 2, 5, 7), (1, 1 << 14, 1 << 20)):
        part = carry(target, contexts, Rules(radius=3, tile=tile, scratch=scratch))
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=0)


def test_equal_neighbours_beyond_the_last_are_all_kept() -> None:
    # Tokens are unit vectors of few directions: cosines are exactly 0 or 1, and nearly every target has ties.
    rng = np.random.default_rng(3)
    _, labels = video(6, 7, 3)
    tokens = [np.eye(4, dtype=np.float32)[rng.integers(0, 4, (6, 7))] for _ in range(4)]
    found = carry(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), Rules(radius=1, topk=2))
    np.testing.assert_allclose(found.numpy(), plain(tokens[-1], tokens[:3], labels, 1, 2, 0.1), atol=2e-6)


def test_a_still_image_without_features_averages_its_window() -> None:
    _, labels = video(5, 5, 1)
    same = [np.ones((5, 5, 4), dtype=np.float32)] * 2
    found = carry(torch.from_numpy(same[0]), filled(same, labels, previous=7), Rules(radius=1, topk=5))
    np.testing.assert_allclose(found[2, 2], labels[0][1:4, 1:4].mean(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(found[0, 0], labels[0][:2, :2].mean(axis=(0, 1)), atol=1e-6)


def test_fewer_neighbours_than_asked_for_are_all_kept() -> None:
    tokens, labels = video(1, 2, 1)
    found = carry(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), Rules(radius=12, topk=5))
    np.testing.assert_allclose(found.numpy(), plain(tokens[-1], tokens[:1], labels, 12, 5, 0.1), atol=2e-6)


def test_a_small_temperature_does_not_overflow() -> None:
    tokens, labels = video(4, 4, 2)
    found = carry(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), Rules(radius=2, temperature=1e-3))
    assert bool(torch.isfinite(found).all())
    np.testing.assert_allclose(found.sum(dim=2), 1, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_gives_the_same() -> None:
    tokens, labels = video(11, 13, 4)
    on_cpu = carry(torch.from_numpy(tokens[-1]), filled(tokens, labels, previous=7), Rules(radius=3))
    contexts = Contexts(torch.from_numpy(tokens[0]).cuda(), torch.from_numpy(labels[0]).cuda(), previous=7)
    for f, v in zip(tokens[1:4], labels[1:], strict=True):
        contexts.push(torch.from_numpy(f).cuda(), torch.from_numpy(v).cuda())
    on_gpu = carry(torch.from_numpy(tokens[-1]).cuda(), contexts, Rules(radius=3))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-5, rtol=0)
