"""Report on a matrix of prototypes, without a net or data: duplicates, norms, the largest set.

Whether a set is void cannot be decided from weights alone; the text says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaltk.errors import DataError
from evaltk.prototypes import duplicates, void
from evaltk.prototypes.duplicates import METHODS, Method
from evaltk.prototypes.graph import Directions

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
DISTANCE = 0.025


def read_matrix(path: Path, read: Mapping[str, Any] | None = None) -> np.ndarray:
    """A matrix [K, p] of float32 or float64 from a ``.npy`` file, or the prototypes of a checkpoint.

    Raises: DataError: no such file, not a matrix of numbers. CheckpointError: a checkpoint without a head.
    """
    if path.suffix != ".npy":
        from evaltk.checkpoints.load import load_checkpoint
        from evaltk.prototypes.head import head_of

        return head_of(load_checkpoint(path, **(read or {}))).prototypes.numpy()
    try:
        matrix = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise DataError(
            wanted="a matrix saved by numpy.save", got=got[:120], where=path, do="save it with numpy.save(path, W)"
        ) from error
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.kind not in "fiu":
        got = f"{matrix.dtype} {list(matrix.shape)}"
        raise DataError(wanted="prototypes [K, p]", got=got, where=path, do="save one row per prototype")
    return matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float32)


def score_matrix(
    path: Path,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    threshold: float = 0.9,
    methods: Sequence[Method] = METHODS,
    device: str = "cpu",
    read: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Duplicates among the prototypes in a file, as JSON-compatible values; `text` formats them.

    Args:
        path: a ``.npy`` file [K, p], or a checkpoint with its head. read: keyword arguments of `load_checkpoint`.
        thresholds: cosines of the sweep. threshold: the primary one. methods: duplicate methods.

    Raises: DataError, CheckpointError: an unusable file, prototypes without a direction (named by index).
        SettingsError: a threshold outside (-1, 1).
    """
    for value in (threshold, *thresholds):
        duplicates.check_threshold(value)
    w = read_matrix(Path(path), read)
    directions = Directions(w, device=device)
    sweep = tuple(sorted({*thresholds, threshold}))
    sets_at = duplicates.readings(directions, sweep, methods=tuple(dict.fromkeys(("leader", *methods))), device=device)
    close = duplicates.readings(directions, (1 - DISTANCE,), methods=("leader",), device=device)
    verdict = void.from_weights(directions.unit.cpu().numpy(), sets_at["leader", threshold])
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
            for (method, t), sets in sets_at.items()
        ],
        "unique_share_by_distance": next(iter(close.values())).num_unique / len(w),
        "distance": DISTANCE,
        "verdict": verdict.words,
    }


def text(report: dict[str, Any]) -> str:
    """The report as text: unique prototypes and largest set by threshold and method, and the verdict."""
    methods = list(dict.fromkeys(c["reading"] for c in report["counts"]))
    counts = {(c["threshold"], c["reading"]): f"{c['unique']:,} | {c['largest']:,}" for c in report["counts"]}
    norm = report["norm"]
    lines = [
        f"{report['file']}: {report['prototypes']:,} prototypes of dimension {report['dimension']:,}, norms "
        f"{norm['min']:.4g} to {norm['max']:.4g} (median {norm['median']:.4g})",
        "",
        "unique | largest set of duplicates",
        f"{'cosine >':>8}  " + "  ".join(f"{name:>17}" for name in methods),
    ]
    for t in sorted({c["threshold"] for c in report["counts"]}):
        lines.append(f"{t:>8g}  " + "  ".join(f"{counts[t, name]:>17}" for name in methods))
    share = f"{100 * report['unique_share_by_distance']:.2f} %"
    lines += ["", f"unique at a cosine distance of {report['distance']:g}: {share} of all", report["verdict"]]
    return "\n".join(lines)
