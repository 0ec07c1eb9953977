"""Rankings on revisited Oxford or Paris: mAP and mP@k.

Examples:
    evaltk score retrieval --ranks ranks.npy --gnd gnd_roxford5k.pkl
    evaltk score retrieval --ranks ranks.npy --gnd gnd_roxford5k.pkl --official revisitop/
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaltk.cli import _options
from evaltk.cli.score import _terminal
from evaltk.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score rankings on revisited Oxford or Paris.

    Attributes:
        ranks: .npy, .npz (`ranks`) or .json, [queries, database]: image indices, best match first.
        gnd: gnd_roxford5k.pkl or gnd_rparis6k.pkl.
        distractors: number of ranked distractor images; their indices follow the database's.
        official: checkout of filipradenovic/revisitop to compare with.
        official_python: interpreter for it.
        json: print one JSON line with per-query values.
    """

    ranks: Path
    gnd: Path
    distractors: int = 0
    official: Path | None = None
    official_python: str | None = None
    json: bool = False


def main(argv: list[str]) -> int:
    """Parse, score, print."""
    score(_options.parse(Options, argv, "score retrieval", __doc__))
    return 0


def score(options: Options) -> None:
    """Print mAP and mP@1, 5, 10. Raises: DataError: rankings or ground truth that will not do."""
    from evaltk.cli.score import _official
    from evaltk.data.revisitop import read_ground_truth
    from evaltk.metrics.retrieval import DIFFICULTIES, per_query

    truth, ranks = read_ground_truth(options.gnd), _terminal.read_array(options.ranks, "ranks")
    size = len(truth.imlist) + options.distractors
    if ranks.ndim == 2 and len(ranks) == len(truth.gnd) and ranks.shape[1] != size:
        raise DataError(
            wanted=f"rankings of all {size} images",
            got=f"{ranks.shape[1]}",
            where=options.ranks,
            do="rank every image; add --distractors N if there are distractors",
        )
    values = per_query(ranks, truth.gnd, num_database=size)
    means = {d: {f"m{name}": _mean(v) for name, v in found.items()} for d, found in values.items()}
    if options.official is not None:
        lists = {
            difficulty: [
                {
                    "ok": [i for label in positive for i in np.asarray(entry[label]).tolist()],
                    "junk": [i for label in ignored for i in np.asarray(entry[label]).tolist()],
                }
                for entry in truth.gnd
            ]
            for difficulty, (positive, ignored) in DIFFICULTIES.items()
        }
        theirs = _official.revisitop(options.official, ranks, lists, python=options.official_python)
        ours = {f"{d} {name}": value for d, found in means.items() for name, value in found.items()}
        ours |= {f"{d} ap of query {q}": float(ap) for d, found in values.items() for q, ap in enumerate(found["ap"])}
        _terminal.show_difference(_official.largest_difference(ours, theirs))
    said = tuple(deviation.words() for deviation in truth.deviations)
    if options.json:
        mean = {
            d: dict(zip(found, _terminal.defined(np.array(list(found.values()))), strict=True))
            for d, found in means.items()
        }
        each = {d: {name: _terminal.defined(v) for name, v in found.items()} for d, found in values.items()}
        print(json.dumps({"benchmark": truth.name, "mean": mean, "per_query": each, "notes": said}))
        return
    titles = {"map": "mAP", "mp@1": "mP@1", "mp@5": "mP@5", "mp@10": "mP@10"}
    rows = {d: [found[name] for name in titles] for d, found in means.items()}
    _terminal.show(f"{truth.name} (%)", tuple(titles.values()), rows, said)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
