"""Duplicates among prototypes, and a report on a bare matrix of them: duplicates, norms, the largest set.

A report uses the weights alone; deciding whether a set is void needs image assignments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaltk import safe_arrays
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import DataError
from evaltk.prototypes import duplicates, void
from evaltk.prototypes.defaults import DISTANCE, THRESHOLD, THRESHOLDS
from evaltk.prototypes.duplicates import METHODS, DuplicateSets, Method
from evaltk.prototypes.graph import Directions


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateCounts:
    """Duplicates among K prototypes.

    Attributes:
        sets: {(method, threshold): duplicate sets}, ``leader`` at every threshold among them.
        primary: those of ``leader`` at the primary threshold.
        unique_share_by_distance: share of unique prototypes (``leader``) at a cosine distance, in [0, 1].
    """

    sets: Mapping[tuple[Method, float], DuplicateSets]
    primary: DuplicateSets
    unique_share_by_distance: float


def count_duplicates(
    directions: Directions,
    *,
    threshold: float = THRESHOLD,
    thresholds: Sequence[float] = THRESHOLDS,
    methods: Sequence[Method] = METHODS,
    distance: float = DISTANCE,
    device: str = "cpu",
) -> DuplicateCounts:
    """Duplicate sets by each method at each threshold (cosines in (-1, 1)) and at the primary one."""
    every = tuple(sorted({*thresholds, threshold}))
    sets = duplicates.readings(directions, every, methods=tuple(dict.fromkeys(("leader", *methods))), device=device)
    (close,) = duplicates.readings(directions, (1 - distance,), methods=("leader",), device=device).values()
    primary = sets["leader", threshold]
    share = close.num_unique / len(primary.owner)
    return DuplicateCounts(sets=sets, primary=primary, unique_share_by_distance=share)


def read_matrix(path: Path, read: ReadOptions | None = None) -> np.ndarray:
    """A matrix [K, p] of float32 or float64 from a ``.npy`` file, or the prototypes of a checkpoint.

    Raises: DataError: no such file, not a matrix of numbers. CheckpointError: a checkpoint without a head.
    """
    if path.suffix != ".npy":
        from evaltk.checkpoints.load import load
        from evaltk.prototypes.head import head_of

        return head_of(load(path, read or ReadOptions())).prototypes.numpy()
    try:
        matrix = safe_arrays.read_npy(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        got, do = ("no such file", "check the path") if missing else (str(error), "save it with numpy.save(path, W)")
        raise DataError(wanted="a matrix saved by numpy.save", got=got[:120], where=path, do=do) from error
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.kind not in "fiu":
        got = f"{matrix.dtype} {list(matrix.shape)}"
        raise DataError(wanted="prototypes [K, p]", got=got, where=path, do="save one row per prototype")
    wide = matrix.dtype.kind == "f" and matrix.dtype.itemsize >= 8
    return matrix.astype(np.float64 if wide else np.float32, copy=False)


def score_matrix(
    path: Path,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    threshold: float = THRESHOLD,
    methods: Sequence[Method] = METHODS,
    device: str = "cpu",
    read: ReadOptions | None = None,
) -> dict[str, Any]:
    """Duplicates among the prototypes in a file, as plain values that JSON can hold.

    Args:
        path: a ``.npy`` file [K, p], or a checkpoint with its head. read: what is said of the checkpoint.
        thresholds: cosines of the sweep. threshold: the primary one. methods: ways to count.

    Raises: DataError, CheckpointError: an unusable file, prototypes without a direction (named by index).
    SettingsError: a threshold outside (-1, 1).
    """
    for value in (threshold, *thresholds):
        duplicates.check_threshold(value)
    w = read_matrix(Path(path), read)
    directions = Directions(w, device=device)
    counts = count_duplicates(directions, threshold=threshold, thresholds=thresholds, methods=methods, device=device)
    verdict = void.from_weights(directions.unit.cpu().numpy(), counts.primary)
    return {
        "file": str(path),
        "prototypes": len(w),
        "dimension": int(w.shape[1]),
        "norm": {
            name: float(np.quantile(directions.norms, q)) for name, q in (("min", 0), ("median", 0.5), ("max", 1))
        },
        "threshold": threshold,
        "counts": [
            {"threshold": t, "reading": method, "unique": sets.num_unique, "largest": sets.largest}
            for (method, t), sets in counts.sets.items()
        ],
        "unique_share_by_distance": counts.unique_share_by_distance,
        "distance": DISTANCE,
        "verdict": verdict.words,
    }
