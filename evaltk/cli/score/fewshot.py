"""Few-shot classification of features by softmax regression.

Examples:
    evaltk score fewshot --train X.npy --labels y.npy --queries Q.npy --query-labels q.npy
    evaltk score fewshot --train X.npy --labels y.npy --queries Q.npy --query-labels q.npy --rows 1.npy 2.npy 3.npy
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from evaltk.cli import _options
from evaltk.cli.score import _terminal
from evaltk.errors import DataError, SettingsError
from reports.table import Cell, Table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score features by softmax regression on few samples, as in MSN.

    Attributes:
        train: .npy [M, D]. labels: .npy [M], class ids.
        queries: .npy [N, D]. query_labels: .npy [N].
        rows: .npy or .json with the rows of train to fit on, one file per split (default: all rows).
        penalty: weight of ||W||^2 / 2 relative to the summed cross-entropy.
        as_given: do not center each feature and scale it to unit length.
        json: print one JSON line.
    """

    train: Path
    labels: Path
    queries: Path
    query_labels: Path
    rows: tuple[Path, ...] = ()
    penalty: tuple[float, ...] = (0.075,)
    as_given: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One regression: top1 a fraction, objective the mean cross-entropy plus penalty / (2 n_train) ||W||^2."""

    top1: float
    n_train: int
    converged: bool
    objective: float
    w_norm: float


def main(argv: list[str]) -> int:
    """Parse, score, print."""
    score(_options.parse(Options, argv, "score fewshot", __doc__))
    return 0


def score(options: Options) -> None:
    """Print top-1 for each penalty and split, and over the splits mean and standard deviations.

    Raises: DataError: features and labels that do not pair, rows that are not there, a split without some class.
    """
    from protocols import fewshot

    train, y = _pair(options.train, options.labels)
    queries, wanted = _pair(options.queries, options.query_labels)
    if queries.shape[1] != train.shape[1]:
        got = f"{queries.shape[1]}"
        raise DataError(
            wanted=f"{train.shape[1]} features", got=got, where=options.queries, do="extract both with the same net"
        )
    if not options.penalty or not all(0 < p < np.inf for p in options.penalty):
        got = str(options.penalty)
        raise SettingsError(wanted="penalties > 0", got=got, where="--penalty", do="--penalty 0.075")
    _terminal.check_learnt(y, wanted, options.labels)
    notes = _terminal.check_features(train, queries, (options.train, options.queries))
    ids, y, wanted = _terminal.numbered(y, wanted)
    x, asked = (train, queries) if options.as_given else (fewshot.centred(train), fewshot.centred(queries))
    splits = [_rows(path, y, ids) for path in options.rows] or [_checked(np.arange(len(y)), y, ids, "")]
    found: dict[float, list[Fit]] = {penalty: [] for penalty in options.penalty}
    for rows in splits:
        for model in fewshot.fit(x[rows], y[rows], list(found), len(ids)):
            right = int((model.predict(asked).numpy() == wanted).sum())
            fitted = Fit(
                top1=right / len(wanted),
                n_train=len(rows),
                converged=model.converged,
                objective=model.objective / len(rows),
                w_norm=float(model.weight.norm()),
            )
            found[model.l2].append(fitted)
    if options.json:
        told = {str(p): {"splits": [asdict(fit) for fit in of]} | _spread(of) for p, of in found.items()}
        print(json.dumps({"n": len(wanted), "penalty": told} | ({"notes": notes} if notes else {})))
        return
    _show(found, len(wanted), notes)


def _spread(of: Sequence[Fit]) -> dict[str, float]:
    from protocols.fewshot import scores

    return scores.spread([fit.top1 for fit in of])


def _show(found: dict[float, list[Fit]], n: int, notes: tuple[str, ...]) -> None:
    from evaltk.metrics.statistics import wilson_interval

    rows = []
    for penalty, of in found.items():
        cells = []
        for fit in of:
            low, high = wilson_interval(round(fit.top1 * n), n)
            cells.append(Cell(value=fit.top1, interval=(low, high)))
        cells += [Cell(value=v) for v in _spread(of).values()]
        rows.append((f"penalty {penalty:g}", tuple(cells)))
    names = {"top1_mean": "mean", "top1_std_sample": "std (n - 1)", "top1_std_population": "std (n)"}
    many = len(next(iter(found.values())))
    columns = (*(f"split {i + 1}" for i in range(many)), *list(names.values())[: 3 if many > 1 else 1])
    notes += tuple(
        f"penalty {p:g}, split {i + 1}: not converged"
        for p, of in found.items()
        for i, fit in enumerate(of)
        if not fit.converged
    )
    title = f"Few-shot top-1 (%), n = {n:,}"
    _terminal.show_table(Table(title=title, columns=columns, rows=tuple(rows), footnotes=notes))


def _pair(features: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    x = _terminal.read_features(features)
    return x, _terminal.read_labels(labels, x, features)


def _rows(path: Path, y: np.ndarray, ids: np.ndarray) -> np.ndarray:
    rows = _terminal.read_array(path, "rows")
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows) or rows.min() < 0 or rows.max() >= len(y):
        got = f"{rows.dtype} {list(rows.shape)}" + (f", {rows.min()} to {rows.max()}" if rows.size else "")
        raise DataError(
            wanted=f"rows [n] from 0 to {len(y) - 1}",
            got=got,
            where=path,
            do="check that it has one valid row number per line",
        )
    if len(np.unique(rows)) < len(rows):
        raise DataError(
            wanted="each row once",
            got="rows twice the same",
            where=path,
            do="check that it has one valid row number per line",
        )
    return _checked(rows.astype(np.int64), y, ids, path)


def _checked(rows: np.ndarray, y: np.ndarray, ids: np.ndarray, where: object) -> np.ndarray:
    lacking = ids[np.setdiff1d(np.arange(len(ids)), y[rows])]
    if len(lacking):
        got = f"none of {len(lacking)}, the first of them class {lacking[0]}"
        wanted = f"rows of all {len(ids)} classes that occur"
        raise DataError(wanted=wanted, got=got, where=where or "--labels", do="add rows, or leave the classes out")
    return rows
