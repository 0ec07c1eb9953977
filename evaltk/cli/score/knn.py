"""k-NN classification of features.

Examples:
    evaltk score knn --bank X.npy --labels y.npy --queries Q.npy --query-labels q.npy --k 20
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaltk.cli import _options
from evaltk.cli.score import _terminal
from evaltk.errors import DataError, SettingsError
from reports.table import Cell, Table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score features by weighted k nearest neighbours.

    Attributes:
        bank: .npy [M, D]. labels: .npy [M], class ids.
        queries: .npy [N, D]. query_labels: .npy [N].
        k: numbers of neighbours.
        temperature: votes are exp(cosine / temperature).
        json: print one JSON line.
    """

    bank: Path
    labels: Path
    queries: Path
    query_labels: Path
    k: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    json: bool = False


def main(argv: list[str]) -> int:
    """Parse, score, print."""
    score(_options.parse(Options, argv, "score knn", __doc__))
    return 0


def score(options: Options) -> None:
    """Print top-1 for each k. Raises: DataError: features and labels that do not pair."""
    import torch

    from evaltk.metrics.statistics import wilson_interval
    from protocols.knn import knn_votes

    bank, queries = (_terminal.read_array(path, "x") for path in (options.bank, options.queries))
    labels, wanted = (_terminal.read_array(path, "y") for path in (options.labels, options.query_labels))
    for x, y, path in ((bank, labels, options.labels), (queries, wanted, options.query_labels)):
        if x.ndim != 2 or x.shape[1] != bank.shape[1] or y.shape != (len(x),) or y.dtype.kind not in "iu" or not len(y):
            got = f"{list(x.shape)} and {y.dtype} {list(y.shape)}"
            raise DataError(
                wanted="features [N, D] and integer labels [N]",
                got=got,
                where=path,
                do="save features [N, D] with one label per row",
            )
        if y.min() < 0:
            raise DataError(wanted="class ids from 0 on", got=str(y.min()), where=path, do="number classes from 0")
    if not options.k or not 1 <= min(options.k) <= max(options.k) <= len(bank):
        raise SettingsError(
            wanted=f"1 <= k <= {len(bank)}",
            got=str(options.k),
            where="--k",
            do="use k up to the number of bank features",
        )
    classes = int(max(labels.max(), wanted.max())) + 1
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (bank, labels.astype(np.int64), queries)]
    votes = knn_votes(tensors[0].float(), tensors[1], tensors[2].float(), options.k, options.temperature, classes)
    right = {k: int((v.argmax(dim=1).numpy() == wanted).sum()) for k, v in votes.items()}
    if options.json:
        print(json.dumps({"n": len(wanted), "top1": {k: r / len(wanted) for k, r in right.items()}}))
        return
    cells = [
        Cell(value=r / len(wanted), interval=(low, high))
        for r in right.values()
        for low, high in [wilson_interval(r, len(wanted))]
    ]
    title = f"k-NN top-1 (%), n = {len(wanted):,}"
    _terminal.show_table(Table(title=title, columns=tuple(f"k={k}" for k in right), rows=(("features", tuple(cells)),)))
