"""What images share of prototypes, the part of log C_p and the matching, against slow loops from the definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from evaltk import vmf
from evaltk.errors import DataError
from evaltk.models.heads import Head
from evaltk.prototypes import constant, matching, sharing
from evaltk.prototypes.mixture import mixture, use
from evaltk.types import HeadWeights

OWNER = np.array([0, 1, 0, 3, 1, 0, 6])
ASSIGNED = np.array([0, 0, 2, 1, 6, 6, 3, 5, 2, 4])
LABELS = np.array([0, 1, 0, 2, 1, 1, 2, 2, 0, 2])


def test_images_of_sets_by_class() -> None:
    found = sharing.set_classes(OWNER, [0, 1, 6], ASSIGNED, LABELS)
    slow = [
        [sum(OWNER[a] == leader and y == c for a, y in zip(ASSIGNED, LABELS, strict=True)) for c in range(3)]
        for leader in (0, 1, 6)
    ]
    assert found.tolist() == slow and found.sum() == 9  # prototype 3 is alone


def test_use_by_class() -> None:
    used, effective = sharing.class_use(ASSIGNED, LABELS)
    for c in range(3):
        mine = ASSIGNED[c == LABELS]
        shares = [np.mean(mine == k) for k in set(mine.tolist())]
        assert used[c] == len(shares)
        assert effective[c] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    used, effective = sharing.class_use(np.array([0, 1]), np.array([0, 2]))
    assert used.tolist() == [1, 0, 1] and np.isnan(effective[1])


def test_similarity_map_is_the_mean_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((7, 4))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found, rows = sharing.similarity_map(unit, OWNER, blocks=3)
    order = [0, 2, 5, 1, 4, 3, 6]  # sets of 3, 2, 1, 1
    parts = [order[:3], order[3:5], order[5:]]
    assert rows.tolist() == [3, 2, 2]
    for (i, a), (j, b) in itertools.product(enumerate(parts), enumerate(parts)):
        assert found[i, j] == pytest.approx(np.mean([unit[k] @ unit[m] for k in a for m in b]), abs=1e-6)
    whole, rows = sharing.similarity_map(unit, OWNER)
    np.testing.assert_allclose(whole, unit[order] @ unit[order].T, atol=1e-6)
    assert rows.tolist() == [1] * 7


@pytest.fixture(scope="module")
def head() -> Head:
    draw = torch.Generator().manual_seed(3)
    tensors = {
        "mlp.weight": torch.randn(5, 6, generator=draw),
        "mlp.bias": torch.randn(5, generator=draw),
        "prototypes.weight_v": torch.randn(9, 5, generator=draw),
        "prototypes.weight_g": torch.rand(9, 1, generator=draw) * 3 + 0.2,
    }
    return Head(HeadWeights(kind="dino", tensors=tensors, center=torch.zeros(9)))


def test_part_of_the_constant(head: Head) -> None:
    x = np.random.default_rng(2).standard_normal((50, 6)).astype(np.float32)
    tau = 0.3
    m = mixture(head, scoring="vmf", temperature=tau)
    (used,) = use(head, x, [m])
    found = constant.of_winners(head, x, m, used)
    w, y = head.prototypes.double().numpy(), head.embed(torch.from_numpy(x)).double().numpy()
    log_c = np.array([float(vmf.log_normalizer(np.linalg.norm(v) / tau, 5)) for v in w])
    shares, changed = [], 0
    for image in y:
        z = w @ image / tau
        k = int(np.argmax(z + log_c))
        of_b, of_z = abs(log_c[k] - log_c.mean()), abs(z[k] - z.mean())
        shares.append(of_b / (of_b + of_z))
        changed += k != int(np.argmax(z))
    assert found is not None and changed > 0
    assert found.share == pytest.approx(np.mean(shares), rel=1e-4)
    assert found.decides == changed / 50
    assert constant.of_winners(head, x, mixture(head, scoring="linear", temperature=tau), used) is None


def best_share(a: np.ndarray, b: np.ndarray) -> float:
    """The largest share over all one-to-one matchings, by trying them all."""
    few, many = sorted((np.unique(a), np.unique(b)), key=len)
    one, other = (a, b) if len(np.unique(a)) <= len(np.unique(b)) else (b, a)
    tried = (
        sum(int(((one == k) & (other == m)).sum()) for k, m in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )
    return max(tried) / len(a)


def test_matching_is_the_best_one() -> None:
    rng = np.random.default_rng(4)
    for _ in range(5):
        a, b = rng.integers(0, 4, 40) * 7, rng.integers(0, 6, 40) + 100  # K differs, ids have gaps
        found = matching.match(a, b)
        assert found.best and found.share == pytest.approx(best_share(a, b))
        for k, m, images in found.pairs.tolist():
            assert images == int(((a == k) & (b == m)).sum()) > 0
        assert len(set(found.pairs[:, 0].tolist())) == len(found.pairs) == len(set(found.pairs[:, 1].tolist()))
        assert (np.diff(found.pairs[:, 2]) <= 0).all()


def test_matching_of_renamed_prototypes_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    a = np.arange(60) % 12
    rename = np.random.default_rng(0).permutation(12)
    found = matching.match(a, rename[a])
    assert found.share == 1 and found.nmi == pytest.approx(1) and found.chance < 0.6
    assert all(rename[k] == m for k, m, _ in found.pairs.tolist())
    monkeypatch.setattr(matching, "LARGEST", 1)  # larger tables take the largest pairs first
    large = matching.match(a, rename[a])
    assert not large.best and large.share == 1


def test_other_images_cannot_be_matched() -> None:
    with pytest.raises(DataError, match="the same images"):
        matching.match(np.zeros(3, dtype=int), np.zeros(4, dtype=int))
