"""Patch tokens as pictures: principal components as colours, and which patches of two images correspond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaltk.errors import DataError

CLIPPED = 1.0  # percent of patches at each end whose colour is cut off, so that single outliers do not gray the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Principal components. mean [D], axes [K, D] of unit length, share [K] of the total variance; float64."""

    mean: np.ndarray
    axes: np.ndarray
    share: np.ndarray

    def project(self, x: np.ndarray) -> np.ndarray:
        """x [N, D] -> [N, K] float64."""
        return (np.asarray(x, dtype=np.float64) - self.mean) @ self.axes.T


def components(x: np.ndarray, count: int) -> Components:
    """The first principal components of x [N, D], by descending variance; at most min(N, D) of them.

    The largest entry of each axis is positive, so that the signs do not depend on the solver.

    Raises: DataError: no rows, or values that are not finite.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
        raise DataError(wanted="finite features [N, D], N >= 1", got=str(list(x.shape)), do="look at the checkpoint")
    mean = x.mean(axis=0)
    centred = x - mean
    count = min(count, *x.shape)
    if len(x) < x.shape[1]:  # the smaller of both Gram matrices
        values, vectors = np.linalg.eigh(centred @ centred.T)
        axes = (centred.T @ vectors[:, ::-1][:, :count]).T
        lengths = np.linalg.norm(axes, axis=1, keepdims=True)
        axes = axes / np.where(lengths > 0, lengths, 1)
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred)
        axes = vectors[:, ::-1][:, :count].T
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    total = float((centred**2).sum())
    share = values[::-1][:count].clip(min=0) / total if total > 0 else np.zeros(count)
    return Components(mean=mean, axes=axes, share=share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coloured:
    """Patches of one image as colours: rgb [h, w, 3] uint8; foreground [h, w] bool, its colours foreground_rgb."""

    rgb: np.ndarray
    foreground: np.ndarray
    foreground_rgb: np.ndarray


def coloured(patches: Sequence[np.ndarray]) -> tuple[Coloured, ...]:
    """Patches of several images in colours that mean the same in all of them.

    The first component of all patches together splits them: the foreground is on the positive side, the sign being
    chosen so that patches at the borders of the images lie lower than the others on average. `rgb` has the first three
    components of all patches as red, green and blue, `foreground_rgb` those of a second analysis of the foreground
    alone, black elsewhere (DINOv2, arXiv 2304.07193, section 7.6 and figure 1). Each channel runs from the 1st to the
    99th percentile.

    Args:
        patches: of each image, [h, w, D].

    Raises: DataError: no images, or tokens that are not finite.
    """
    if not patches:
        raise DataError(wanted="patches of one image or more", got="none", do="name images")
    rows = np.concatenate([p.reshape(-1, p.shape[-1]) for p in patches])
    border = np.concatenate([_border(p.shape[0], p.shape[1]).ravel() for p in patches])
    first = components(rows, 3)
    placed = first.project(rows)
    lead = placed[:, 0]
    if border.any() and not border.all() and lead[border].mean() > lead[~border].mean():
        lead = -lead
    inside = lead > 0
    rgb = _channels(placed)
    front = np.zeros_like(rgb)
    if inside.any():
        front[inside] = _channels(components(rows[inside], 3).project(rows[inside]))
    made, start = [], 0
    for p in patches:
        part = slice(start, start := start + p.shape[0] * p.shape[1])
        shape = p.shape[:2]
        made.append(
            Coloured(
                rgb=rgb[part].reshape(*shape, 3),
                foreground=inside[part].reshape(shape),
                foreground_rgb=front[part].reshape(*shape, 3),
            )
        )
    return tuple(made)


def mutual_matches(a: np.ndarray, b: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches of two images that are each other's nearest by cosine, the most similar first.

    Ties go to the patch with the smaller number.

    Args:
        a: [N, D], b: [M, D], rows not zero. limit: how many pairs at most.

    Returns: pairs [P, 2] int64, (row of a, row of b); their cosines [P] float64.

    >>> mutual_matches(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 2.0], [1.0, 1.0]]), 5)[0].tolist()
    [[1, 0], [0, 1]]
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny) for x in (a, b))
    cosine = a @ b.T
    to_b, to_a = cosine.argmax(axis=1), cosine.argmax(axis=0)
    rows = np.flatnonzero(to_a[to_b] == np.arange(len(a)))
    found = cosine[rows, to_b[rows]]
    order = np.lexsort((rows, -found))[:limit]
    return np.stack([rows[order], to_b[rows[order]]], axis=1), found[order]


def _border(height: int, width: int) -> np.ndarray:
    border = np.ones((height, width), dtype=bool)
    border[1:-1, 1:-1] = False
    return border


def _channels(placed: np.ndarray) -> np.ndarray:
    """Components [N, K <= 3] as colours [N, 3] uint8; a component that is missing or constant is half bright."""
    rgb = np.full((len(placed), 3), 127.5)
    for k in range(placed.shape[1]):
        low, high = np.percentile(placed[:, k], (CLIPPED, 100 - CLIPPED))
        if high > low:
            rgb[:, k] = ((placed[:, k] - low) / (high - low)).clip(0, 1) * 255
    return np.rint(rgb).astype(np.uint8)
