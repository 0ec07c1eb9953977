"""Agreement of a clustering with labels: purity, conditional entropy, NMI; natural logarithms throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaltk.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of clusters and labels.

    Attributes:
        purity: fraction of images with the most frequent label of their cluster, in [0, 1].
        label_entropy: H(label | cluster) in nats; 0 if every cluster has a single label.
        nmi: mutual information over the mean of the two entropies, in [0, 1]; 1 if both are constant.
        cluster_purity, cluster_entropy: [K] float64, per cluster; NaN for an empty cluster.
    """

    purity: float
    label_entropy: float
    nmi: float
    cluster_purity: np.ndarray
    cluster_entropy: np.ndarray


def agreement(assigned: np.ndarray, labels: np.ndarray, num_clusters: int) -> Agreement:
    """Purity, entropy and mutual information of clusters assigned [N] in [0, num_clusters) and labels [N] >= 0.

    Only (cluster, label) pairs that occur are stored, never a matrix of e.g. 65,536 x 1,000 counts.

    Raises: DataError: no images, or not one label per image.

    >>> found = agreement(np.array([0, 0, 0, 1]), np.array([5, 5, 2, 2]), num_clusters=2)
    >>> found.purity, round(found.label_entropy, 4), round(found.nmi, 4)
    (0.75, 0.4774, 0.3437)
    """
    assigned, labels = np.asarray(assigned, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    if assigned.ndim != 1 or assigned.shape != labels.shape or not len(assigned):
        got = f"{list(assigned.shape)} and {list(labels.shape)}"
        do = "pass two vectors of the same length"
        raise DataError(wanted="one cluster and one label for each of N >= 1 images", got=got, do=do)
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


def hungarian_accuracy(assigned: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """(accuracy when each cluster stands for one label, the label of each cluster [K] int64, -1 for none).

    Clusters and labels are matched one to one so that most images are right (scipy's assignment), as in SCAN's and
    iBOT's unsupervised classification; clusters beyond the number of labels stand for none.

    Args: assigned: cluster of each image [N] >= 0. labels: [N] >= 0.

    Raises: DataError: as `agreement`.

    >>> hungarian_accuracy(np.array([1, 1, 0, 0]), np.array([0, 0, 0, 1]))[0]
    0.75
    """
    from scipy.optimize import linear_sum_assignment

    assigned, labels = np.asarray(assigned, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    if assigned.ndim != 1 or assigned.shape != labels.shape or not len(assigned):
        got = f"{list(assigned.shape)} and {list(labels.shape)}"
        do = "pass two vectors of the same length"
        raise DataError(wanted="one cluster and one label for each of N >= 1 images", got=got, do=do)
    table = np.zeros((int(assigned.max()) + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(table, (assigned, labels), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    label_of = np.full(len(table), -1, dtype=np.int64)
    label_of[rows] = columns
    return float(table[rows, columns].sum() / len(labels)), label_of


def perplexity(probabilities: np.ndarray) -> float:
    """exp of the entropy of a distribution [K], its effective number of outcomes, in [1, K].

    Raises: DataError: values that are negative or not finite, or whose sum is not 1.

    >>> round(perplexity(np.array([0.5, 0.5, 0.0])), 12)
    2.0
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or not np.isfinite(p).all() or (p < 0).any() or abs(p.sum() - 1) > 1e-3:
        got = f"{list(p.shape)}, sum {p.sum():g}"
        raise DataError(wanted="a distribution [K]", got=got, do="divide the values by their sum")
    return float(np.exp(_entropy(p / p.sum())))


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
