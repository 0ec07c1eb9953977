"""Sums whose order of terms is numpy's own, the same on every processor, and not that of a matrix product."""

from __future__ import annotations

import numpy as np


def weighted(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums [B] or [B, M] of values [V] or [V, M], each taken counts [B, V] times."""
    columns = [(counts * column).sum(axis=1) for column in values.reshape(len(values), -1).T]
    return np.stack(columns, axis=1).reshape(len(counts), *values.shape[1:])
