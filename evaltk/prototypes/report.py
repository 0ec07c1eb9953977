"""What a bare matrix of prototypes tells, without a net and without data: near-copies, norms, the largest set.

The text says that it is from the weights alone: whether a set is void, only the use by images can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import DataError
from evaltk.prototypes import duplicates, void
from evaltk.prototypes.duplicates import METHODS, Method
from evaltk.prototypes.graph import Directions

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
DISTANCE = 0.025


def read_matrix(path: Path, read: ReadOptions | None = None) -> np.ndarray:
    """A matrix [K, p] of float32 or float64 from a ``.npy`` file, or the prototypes of a checkpoint.

    Raises: DataError: no such file, not a matrix of numbers. CheckpointError: a checkpoint without a head.
    """
    if path.suffix != ".npy":
        from evaltk.checkpoints.load import load
        from evaltk.prototypes.head import head_of

        return head_of(load(path, read or ReadOptions())).prototypes.numpy()
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise DataError(
            wanted="a matrix saved by numpy.save", got=got[:120], where=path, do="numpy.save(path, W)"
        ) from error
    if found.ndim != 2 or 0 in found.shape or found.dtype.kind not in "fiu":
        got = f"{found.dtype} {list(found.shape)}"
        raise DataError(wanted="prototypes [K, p]", got=got, where=path, do="save one row a prototype")
    # float16 has steps of 5e-4 near 1: nothing is lost by widening, but its cosines are its own.
    return found if found.dtype in (np.float32, np.float64) else found.astype(np.float32)


def score_matrix(
    path: Path,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    threshold: float = 0.9,
    methods: Sequence[Method] = METHODS,
    device: str = "cpu",
    read: ReadOptions | None = None,
) -> dict[str, Any]:
    """Near-copies of the prototypes in a file, as plain values that JSON can hold; `text` says them in words.

    Args:
        path: a ``.npy`` file [K, p], or a checkpoint with its head. read: what is said of the checkpoint.
        thresholds: cosines of the sweep. threshold: the primary one. methods: readings.

    Raises: DataError, CheckpointError: a file that will not do, prototypes without a direction (named by index).
    SettingsError: a threshold outside (-1, 1).
    """
    for value in (threshold, *thresholds):
        duplicates.check_threshold(value)
    w = read_matrix(Path(path), read)
    directions = Directions(w, device=device)
    sweep = tuple(sorted({*thresholds, threshold}))
    found = duplicates.readings(directions, sweep, methods=tuple(dict.fromkeys(("leader", *methods))), device=device)
    close = duplicates.readings(directions, (1 - DISTANCE,), methods=("leader",), device=device)
    verdict = void.from_weights(directions.unit.cpu().numpy(), found["leader", threshold])
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
            for (method, t), sets in found.items()
        ],
        "unique_share_by_distance": next(iter(close.values())).num_unique / len(w),
        "distance": DISTANCE,
        "verdict": verdict.words,
    }


def text(told: dict[str, Any]) -> str:
    """The same for people: a table of unique prototypes and largest set by threshold and reading, and the verdict."""
    readings = list(dict.fromkeys(c["reading"] for c in told["counts"]))
    counts = {(c["threshold"], c["reading"]): f"{c['unique']:,} | {c['largest']:,}" for c in told["counts"]}
    norm = told["norm"]
    lines = [
        f"{told['file']}: {told['prototypes']:,} prototypes of dimension {told['dimension']:,}, norms "
        f"{norm['min']:.4g} to {norm['max']:.4g} (median {norm['median']:.4g})",
        "",
        "unique | largest set of near-copies",
        f"{'cosine >':>8}  " + "  ".join(f"{name:>17}" for name in readings),
    ]
    for t in sorted({c["threshold"] for c in told["counts"]}):
        lines.append(f"{t:>8g}  " + "  ".join(f"{counts[t, name]:>17}" for name in readings))
    share = f"{100 * told['unique_share_by_distance']:.2f} %"
    lines += ["", f"unique at a cosine distance of {told['distance']:g}: {share} of all", told["verdict"]]
    return "\n".join(lines)
