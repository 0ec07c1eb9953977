"""What images share of prototypes: by set of duplicates, by class, and how prototypes resemble each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaltk.metrics.clustering import perplexity

BLOCKS = 128  # rows and columns of a similarity map


def set_classes(owner: np.ndarray, leaders: Sequence[int], assigned: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images by class of each set of duplicates [S, C] int64.

    Args:
        owner: leader of each prototype [K]. leaders: of the sets asked for [S]. assigned: prototype of each image [N].
        labels: its class in [0, C) [N].
    """
    counts = np.zeros((len(leaders), int(labels.max()) + 1), dtype=np.int64)
    of_image = owner[assigned]
    for row, leader in enumerate(leaders):
        mine = labels[of_image == leader]
        counts[row] = np.bincount(mine, minlength=counts.shape[1])
    return counts


def class_use(assigned: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(prototypes used [C] int64, effective number [C] float64) of the images of each class.

    The effective number is the perplexity of the share of the class's images by prototype; NaN without images.
    """
    used, effective = [], []
    for label in range(int(labels.max()) + 1):
        counts = np.unique(assigned[labels == label], return_counts=True)[1]
        used.append(len(counts))
        effective.append(perplexity(counts / counts.sum()) if len(counts) else np.nan)
    return np.array(used, dtype=np.int64), np.array(effective)


def similarity_map(unit: np.ndarray, owner: np.ndarray, *, blocks: int = BLOCKS) -> tuple[np.ndarray, np.ndarray]:
    """(mean cosines [M, M] float32 between blocks of prototypes, rows in each block [M] int64), M <= `blocks`.

    Prototypes are ordered by the size of their set of duplicates, the largest set first, then by set and index, and
    cut into M blocks of nearly equal size.

    Args: unit: unit prototypes [K, p]. owner: leader of each [K].
    """
    size = np.bincount(owner, minlength=len(unit))
    order = np.lexsort((np.arange(len(unit)), owner, -size[owner]))
    parts = np.array_split(order, min(blocks, len(unit)))
    means = np.stack([unit[part].mean(axis=0, dtype=np.float64) for part in parts])
    return (means @ means.T).astype(np.float32), np.array([len(part) for part in parts])
