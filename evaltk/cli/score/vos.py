"""Masks on DAVIS-2017: J&F, J and F, overall and per object.

Examples:
    evaltk score vos --results masks/ --davis DAVIS/ --csv-out .
    evaltk score vos --results masks/ --davis DAVIS/ --official davis2017-evaluation/
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaltk.cli import _options
from evaltk.cli.score import _terminal
from evaltk.errors import DataError

if TYPE_CHECKING:
    from evaltk.metrics.segmentation import ObjectScores


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score result masks on DAVIS-2017, semi-supervised.

    Attributes:
        results: folder with SEQUENCE/FRAME.png, index masks.
        davis: folder with ImageSets/2017 and Annotations/480p.
        split: list of sequences to score.
        csv_out: folder for the official global and per-sequence tables.
        official: checkout of davisvideochallenge/davis2017-evaluation to compare with.
        official_python: interpreter for it (needs OpenCV, scikit-image, pandas and tqdm).
        workers: processes (default: number of cores).
        json: print one JSON line with per-object values.
    """

    results: Path
    davis: Path
    split: str = "val"
    csv_out: Path | None = None
    official: Path | None = None
    official_python: str | None = None
    workers: int | None = None
    json: bool = False


def main(argv: list[str]) -> int:
    """Parse, score, print."""
    score(_options.parse(Options, argv, "score vos", __doc__))
    return 0


def score(options: Options) -> None:
    """Print J&F, J and F, global and of each object.

    Raises: DataError: a sequence or frame that is missing, in colours, of another size, or has too high an id.
    """
    from evaltk.cli.score import _official
    from evaltk.datasets.davis2017 import read_sequences
    from evaltk.metrics import segmentation
    from protocols.vos import scoring

    tasks = []
    missing: list[Path] = []
    for sequence in read_sequences(options.davis, options.split, frames=False):
        result = tuple(options.results / sequence.name / mask.name for mask in sequence.masks)
        missing += [path for path in result[1:-1] if not path.is_file()]
        tasks.append(scoring.Task(name=sequence.name, truth=sequence.masks, result=result))
    if missing:
        some = ", ".join(str(path.relative_to(options.results)) for path in missing[:20])
        raise DataError(
            wanted="a mask for each scored frame (all but the first and last)",
            got=f"{len(missing)} missing: {some}" + (" ..." if len(missing) > 20 else ""),
            where=options.results,
            do="write SEQUENCE/FRAME.png, named as the annotations",
        )
    objects = [one for of_sequence in scoring.score_all(tasks, workers=options.workers) for one in of_sequence]
    if options.official is not None:
        theirs = _official.davis(
            options.official, options.davis, options.results, options.split, python=options.official_python
        )
        ours = {f"{one.name} {column}": value for one in objects for column, value in one.columns().items()}
        # The original stores quarter boundaries in one byte, which overflows above 256 frames.
        long = {one.name for one in objects if len(one.region) > 256}
        _terminal.show_difference(
            _official.largest_difference(*(_without_decay(table, long) for table in (ours, theirs)))
        )
    if options.csv_out is not None:
        for path in scoring.write_tables(options.csv_out, options.split, objects):
            print(f"wrote {path}", file=sys.stderr)
    _print_objects(segmentation.summarise(objects), objects, options)


def _print_objects(means: Mapping[str, float], objects: list[ObjectScores], options: Options) -> None:
    if options.json:
        each = {one.name: one.columns() for one in objects}
        print(json.dumps({"split": options.split, "mean": dict(means), "per_object": each}))
        return
    rows = {"all objects": [means[column] for column in means]}
    for one in objects:
        of = one.columns()
        rows[one.name] = [(of["J-Mean"] + of["F-Mean"]) / 2, *of.values()]
    _terminal.show(f"DAVIS-2017 {options.split}, {len(objects)} objects (%)", tuple(means), rows)


def _without_decay(table: Mapping[str, float], names: set[str]) -> dict[str, float]:
    return {k: v for k, v in table.items() if not (k.endswith("-Decay") and k.partition(" ")[0] in names)}
