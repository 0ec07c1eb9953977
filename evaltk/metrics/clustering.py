"""How an assignment of images to clusters agrees with their labels; natural logarithms throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaltk.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Clusters against labels.

    Attributes:
        purity: share of images that have the commonest label of their cluster, in [0, 1].
        label_entropy: H(label | cluster) in nats, 0 where every cluster has one label.
        nmi: mutual information over the mean of the two entropies, in [0, 1]; 1 where both are constant.
        cluster_purity, cluster_entropy: [K] float64, of each cluster; NaN where it has no image.
    """

    purity: float
    label_entropy: float
    nmi: float
    cluster_purity: np.ndarray
    cluster_entropy: np.ndarray


def agreement(assigned: np.ndarray, labels: np.ndarray, num_clusters: int) -> Agreement:
    """Purity, entropy and mutual information of clusters assigned [N] in [0, num_clusters) and labels [N] >= 0.

    Only pairs (cluster, label) that occur are counted, so that 65,536 x 1,000 counts need not exist.

    Raises: DataError: no images, or not one label an image.
    """
    assigned, labels = np.asarray(assigned, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    if assigned.ndim != 1 or assigned.shape != labels.shape or not len(assigned):
        got = f"{list(assigned.shape)} and {list(labels.shape)}"
        raise DataError(wanted="one cluster and one label for each of N >= 1 images", got=got, do="mend the arrays")
    num_labels = int(labels.max()) + 1
    code, count = np.unique(assigned * num_labels + labels, return_counts=True)
    cluster = code // num_labels
    n = len(assigned)
    of_cluster = np.bincount(assigned, minlength=num_clusters)  # [K]
    share = count / of_cluster[cluster]  # p(label | cluster)
    used = of_cluster > 0
    best, entropy = np.zeros(num_clusters), np.zeros(num_clusters)
    np.maximum.at(best, cluster, share)
    np.add.at(entropy, cluster, -share * np.log(share))
    conditional = float((of_cluster * entropy).sum() / n)
    of_labels, of_clusters = _entropy(np.bincount(labels) / n), _entropy(of_cluster / n)
    mutual = max(0.0, of_labels - conditional)
    mean = (of_labels + of_clusters) / 2
    return Agreement(
        purity=float((of_cluster * best).sum() / n),
        label_entropy=conditional,
        nmi=min(1.0, mutual / mean) if mean > 0 else 1.0,
        cluster_purity=np.where(used, best, np.nan),
        cluster_entropy=np.where(used, entropy, np.nan),
    )


def perplexity(probabilities: np.ndarray) -> float:
    """exp of the entropy of a distribution [K]: so many outcomes of equal probability are as uncertain, in [1, K].

    Raises: DataError: negative, not finite, or a sum that is not 1.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or not np.isfinite(p).all() or (p < 0).any() or abs(p.sum() - 1) > 1e-3:
        raise DataError(wanted="a distribution [K]", got=f"{list(p.shape)}, sum {p.sum():g}", do="mend the values")
    return float(np.exp(_entropy(p / p.sum())))


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
