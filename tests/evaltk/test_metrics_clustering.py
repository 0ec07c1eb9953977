"""Purity, entropy, mutual information: by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from evaltk.errors import DataError
from evaltk.metrics.clustering import agreement, perplexity


def test_by_hand() -> None:
    # Cluster 0 holds labels 0 0 1, cluster 2 holds 1, cluster 1 nothing.
    found = agreement(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 1]), 3)
    assert found.purity == pytest.approx(3 / 4)
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert found.label_entropy == pytest.approx(3 / 4 * entropy)
    np.testing.assert_allclose(found.cluster_purity, [2 / 3, np.nan, 1])
    np.testing.assert_allclose(found.cluster_entropy, [entropy, np.nan, 0])


@pytest.mark.parametrize("seed", range(5))
def test_mutual_information_is_sklearns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, 400)
    assigned = np.where(rng.random(400) < 0.2 * seed, labels * 3, rng.integers(0, 40, 400))
    assert agreement(assigned, labels, 50).nmi == pytest.approx(normalized_mutual_info_score(labels, assigned))


def test_one_cluster_and_one_label() -> None:
    assert agreement(np.zeros(3, int), np.zeros(3, int), 1).nmi == 1
    assert agreement(np.zeros(4, int), np.arange(4), 2).nmi == pytest.approx(0, abs=1e-12)


def test_perplexity() -> None:
    assert perplexity(np.full(8, 1 / 8)) == pytest.approx(8)
    assert perplexity(np.array([1.0, 0, 0])) == pytest.approx(1)
    with pytest.raises(DataError, match="distribution"):
        perplexity(np.array([0.5, 0.2]))


def test_no_images() -> None:
    with pytest.raises(DataError, match="one cluster and one label"):
        agreement(np.zeros(0, int), np.zeros(0, int), 2)
