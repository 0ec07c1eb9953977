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

    from evaltk import neighbours
    from evaltk.metrics.statistics import wilson_interval
    from protocols import knn

    bank, queries = (_terminal.read_features(path) for path in (options.bank, options.queries))
    if queries.shape[1] != bank.shape[1]:
        do = "extract both with the same net"
        raise DataError(wanted=f"{bank.shape[1]} features", got=f"{queries.shape[1]}", where=options.queries, do=do)
    labels = _terminal.read_labels(options.labels, bank, options.bank)
    wanted = _terminal.read_labels(options.query_labels, queries, options.queries)
    ks = tuple(k for k in options.k if k <= len(bank))
    if not ks or min(ks) < 1:
        raise SettingsError(
            wanted=f"1 <= k <= {len(bank)}",
            got=str(options.k),
            where="--k",
            do="use k up to the number of bank features",
        )
    if not 0 < options.temperature < np.inf:
        got = str(options.temperature)
        raise SettingsError(wanted="a temperature > 0", got=got, where="--temperature", do="--temperature 0.07")
    _terminal.check_learnt(labels, wanted, options.labels)
    notes = _terminal.check_features(bank, queries, (options.bank, options.queries))
    ids, labels, wanted = _terminal.numbered(labels, wanted)
    x, q = torch.from_numpy(bank).float(), torch.from_numpy(queries).float()
    similarity, index = neighbours.search(q, x, max(ks))
    settings = knn.Settings(k=ks, temperature=(options.temperature,))
    _, predicted = knn.rank_neighbours(
        similarity, torch.from_numpy(labels)[index], torch.from_numpy(wanted), settings, len(ids)
    )
    right = {k: int((p.numpy() == wanted).sum()) for (k, _), p in predicted.items()}
    left = [str(k) for k in options.k if k > len(bank)]
    notes += (f"k = {' '.join(left)} left out: the bank has {len(bank):,} rows",) if left else ()
    if options.json:
        found = {"n": len(wanted), "top1": {k: r / len(wanted) for k, r in right.items()}}
        print(json.dumps(found | ({"notes": notes} if notes else {})))
        return
    cells = [
        Cell(value=r / len(wanted), interval=(low, high))
        for r in right.values()
        for low, high in [wilson_interval(r, len(wanted))]
    ]
    title = f"k-NN top-1 (%), n = {len(wanted):,}"
    columns, rows = tuple(f"k={k}" for k in right), (("features", tuple(cells)),)
    _terminal.show_table(Table(title=title, columns=columns, rows=rows, footnotes=notes))
