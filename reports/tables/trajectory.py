"""`trajectory`: the headline of each protocol against the epoch, for every training of which several were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaltk.types import Result
from reports import comparable
from reports.layouts import Over
from reports.paired import Arrays, Predictions
from reports.table import Table
from reports.tables import view


def build(over: Over, results: Sequence[Result], predictions: Predictions | None) -> list[Table]:
    """One table for each training with checkpoints of two epochs or more, a row an epoch; [] if there is none.

    A training is what folder, family, branch and architecture tell.
    """
    runs: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        checkpoint = result.checkpoint
        told = comparable.OF_RUN.fullmatch(str(checkpoint.get("name")))
        if told and isinstance(checkpoint.get("epoch"), int):
            arch = comparable.as_mapping(checkpoint.get("arch")).get("name")
            key = (told["run"], *(str(part) for part in (checkpoint.get("family"), checkpoint.get("branch"), arch)))
            runs.setdefault(key, []).append(result)
    made = []
    for (run, *_), mine in runs.items():
        if len({result.checkpoint["epoch"] for result in mine}) > 1:
            made += _of_run(replace(over, title=f"{over.title}: {run}"), mine, predictions)
    return made


def _of_run(over: Over, mine: Sequence[Result], predictions: Predictions | None) -> list[Table]:
    ordered = sorted(mine, key=_epoch)
    rows = [replace(one, checkpoint={**one.checkpoint, "name": f"epoch {_epoch(one)}"}) for one in ordered]
    first = {id(row): one for row, one in zip(rows, ordered, strict=True)}

    def of_first(result: Result, names: Sequence[str]) -> Arrays:
        assert predictions is not None
        return predictions(first[id(result)], names)

    made = view.build(over, rows, None if predictions is None else of_first)
    place = {row.checkpoint["name"]: number for number, row in enumerate(rows)}
    return [replace(t, rows=tuple(sorted(t.rows, key=lambda row: place.get(row[0], 0)))) for t in made]


def _epoch(result: Result) -> int:
    epoch: Mapping[str, object] = result.checkpoint
    return int(str(epoch["epoch"]))
