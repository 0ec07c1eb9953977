"""Geometry of features, from features alone: effective rank, intrinsic dimension, uniformity, CKA; all in float64."""

from __future__ import annotations

import numpy as np

from evaltk.errors import DataError

EPS = 1e-7  # RankMe's and LiDAR's, added to every share
RIDGE = 1e-4  # added to the diagonal of LiDAR's scatter within
KEPT = 0.9  # of the points that two-NN fits its line to
BLOCK = 1024  # rows at a time where all pairs are looked at
NEAREST = 8  # candidates whose distances are computed without cancellation


def rankme(x: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares, the effective rank of x [N, D], in [1, min(N, D)].

    p_k = s_k / sum(s) + 1e-7, RankMe = exp(-sum p_k log p_k); x is not centred (Garrido et al., ICML 2023,
    arXiv 2210.02885, equations 1 and 2).

    >>> round(rankme(np.eye(4)), 3)
    4.0
    """
    return _effective(np.linalg.svd(_checked(x), compute_uv=False))


def lidar(x: np.ndarray) -> float:
    """LiDAR: effective rank of the discriminant matrix of views, x [n images, q views, D]; in [1, D].

    W^-1/2 B W^-1/2, with B the scatter of the images' means and W that of views about them plus 1e-4 I, both unbiased;
    then `rankme`'s entropy of its eigenvalues (Thilak et al., ICLR 2024, arXiv 2312.04000, section 4.1).

    Raises: DataError: fewer than two images or two views.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 3 or x.shape[0] < 2 or x.shape[1] < 2:
        raise DataError(wanted="features [n >= 2 images, q >= 2 views, D]", got=str(list(x.shape)), do="use more views")
    n, q, dim = x.shape
    means = x.mean(axis=1)
    between = means - means.mean(axis=0)
    within = (x - means[:, None]).reshape(-1, dim)
    b, w = between.T @ between / (n - 1), within.T @ within / (n * (q - 1)) + RIDGE * np.eye(dim)
    values, vectors = np.linalg.eigh(w)
    root = vectors / np.sqrt(values) @ vectors.T
    return _effective(np.linalg.eigvalsh(root @ b @ root).clip(min=0))


def _effective(values: np.ndarray) -> float:
    total = values.sum()
    if not total > 0:
        raise DataError(wanted="features that differ from zero", got="zeros", do="look at the checkpoint")
    p = values / total + EPS
    return float(np.exp(-(p * np.log(p)).sum()))


def two_nn(x: np.ndarray) -> tuple[float, int]:
    """(intrinsic dimension of x [N, D], points without a neighbour at distance 0 that it is estimated from).

    With mu = second over first distance of a point's nearest neighbours, sorted, a line through the origin is fitted to
    -log(1 - i / N) over log mu for the first 90 % of points; its slope is the dimension (Facco et al., Scientific
    Reports 7, 2017, 12140). Duplicates have no such ratio and are left out.

    Raises: DataError: fewer than ten points with a ratio, or one ratio only.
    """
    first, second = _two_nearest(_checked(x))
    apart = first > 0
    ratio = np.sort(np.log(second[apart] / first[apart]))
    count = len(ratio)
    kept = int(count * KEPT)
    if kept < 9 or not ratio[:kept].any():
        got = f"{count} of {len(x)}"
        raise DataError(wanted="10 or more images unlike all others", got=got, do="use more images")
    height = -np.log1p(-np.arange(1, kept + 1) / count)
    return float(ratio[:kept] @ height / (ratio[:kept] @ ratio[:kept])), count


def _two_nearest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances [N], [N] of the nearest and second nearest other row."""
    squares = (x**2).sum(axis=1)
    count = min(NEAREST, len(x) - 1)
    if count < 2:
        raise DataError(wanted="3 images or more", got=str(len(x)), do="use more images")
    found = np.empty((len(x), 2))
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        distance = squares[rows, None] + squares - 2 * x[rows] @ x.T
        distance[np.arange(len(distance)), np.arange(start, start + len(distance))] = np.inf
        near = np.argpartition(distance, count - 1, axis=1)[:, :count]
        exact = ((x[rows, None] - x[near]) ** 2).sum(axis=2)
        found[rows] = np.sqrt(np.sort(exact, axis=1)[:, :2])
    return found[:, 0], found[:, 1]


def uniformity(x: np.ndarray, t: float = 2.0) -> float:
    """log of the mean of exp(-t |u - v|^2) over all pairs of rows at unit length; 0 for a collapsed net, else negative.

    Wang and Isola, ICML 2020 (arXiv 2005.10242), section 4.1.2.

    >>> round(uniformity(np.array([[1.0, 0.0], [-2.0, 0.0]])), 6)
    -8.0
    """
    u = unit(x)
    if len(u) < 2:
        raise DataError(wanted="2 images or more", got=str(len(u)), do="use more images")
    total = 0.0
    for start in range(0, len(u), BLOCK):
        squared = (2 - 2 * u[start : start + BLOCK] @ u.T).clip(min=0)
        total += float(np.exp(-t * squared).sum())
    pairs = len(u) * (len(u) - 1)
    return float(np.log(max(total - len(u), np.finfo(np.float64).tiny) / pairs))


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance of the rows of a and b [N, D], two views of each image, at unit length; in [0, 4].

    Wang and Isola's L_align with alpha = 2.
    """
    return float(((unit(a) - unit(b)) ** 2).sum(axis=1).mean())


def dead_dimensions(x: np.ndarray, below: float = 0.01) -> float:
    """Share of the columns of x [N, D] whose standard deviation is below `below` times the root mean square of all.

    >>> dead_dimensions(np.array([[0.0, 1.0], [0.0, 2.0]]))
    0.5
    """
    spread = _checked(x).std(axis=0)
    typical = np.sqrt((spread**2).mean())
    return float((spread < below * typical).mean()) if typical > 0 else 1.0


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA of features a [N, D] and b [N, E] of the same images, in [0, 1]; NaN where one is constant.

    |b'a|^2 / (|a'a| |b'b|) of centred columns, Frobenius norms (Kornblith et al., ICML 2019, arXiv 1905.00414,
    equation 5).

    Raises: DataError: not one row per image in both.
    """
    a, b = _checked(a), _checked(b)
    if len(a) != len(b):
        raise DataError(wanted="features of the same images", got=f"{len(a)} and {len(b)}", do="use one dataset")
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    if len(a) < min(a.shape[1], b.shape[1]):  # the smaller products
        k, m = a @ a.T, b @ b.T
        between, own = (k * m).sum(), np.sqrt((k**2).sum() * (m**2).sum())
    else:
        between = ((b.T @ a) ** 2).sum()
        own = np.sqrt(((a.T @ a) ** 2).sum() * ((b.T @ b) ** 2).sum())
    return float(between / own) if own > 0 else float("nan")


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of x [N, D] at unit length; zero rows stay zero."""
    x = _checked(x)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _checked(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise DataError(wanted="finite features [N, D], N >= 1", got=str(list(x.shape)), do="look at the checkpoint")
    return x
