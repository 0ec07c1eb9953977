"""Our numbers beside published ones, all in one table, and how many were reproduced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaltk.types import OriginProof, Result
from reports import comparable as belonging
from reports.published import match as twins
from reports.published import verdicts
from reports.table import Cell, Table
from reports.tables import cells

NONE = "no published number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A table of all cells with a published twin (None: there is none), and {verdict: how many}."""

    table: Table | None
    counts: Mapping[str, int]


def names(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    """{identity of a checkpoint: what to call it}, all results of it together."""
    first = {belonging.identity(result): result for result in reversed(results)}
    order = list(dict.fromkeys(map(belonging.identity, results)))
    return dict(zip(order, belonging.labels([first[who] for who in order]), strict=True))


def beside(results: Sequence[Result]) -> Beside:
    """Every score that a published number stands for, with the verdict on it."""
    called = names(results)
    counts = dict.fromkeys((verdicts.REPRODUCED, verdicts.OFF, verdicts.NOT_COMPARABLE, NONE), 0)
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    assumed = False
    for result in results:
        compared = 0
        for found in twins.every(result):
            row = found.row()
            if row is None:
                continue
            compared += 1
            known = cells.of_extra(found.extra, found.result, found.score)
            ours = replace(
                known, published=None, published_spread=None, verdict="", why="", remark="", digits=row.digits
            )
            cell = verdicts.beside(ours, row, found)
            assumed = assumed or result.origin_proof is OriginProof.LAYOUT
            counts[cell.verdict] += 1
            what = f"{result.protocol} {belonging.dataset(result)}: {found.extra.title}"
            printed = Cell(value=row.value, unit=row.unit, digits=row.digits)
            verdict = Cell(verdict=cell.verdict, why=cell.why, remark=cell.remark)
            label = called[belonging.identity(result)]
            rows.append((label, (Cell(note=what), ours, printed, verdict, Cell(note=f"{row.source}"))))
        counts[NONE] += not compared
    order = list(counts)
    rows.sort(key=lambda row: order.index(row[1][3].verdict))  # what can be judged first; else as it came
    if not rows:
        return Beside(table=None, counts=counts)
    table = Table(
        title="Measured here beside the published number",
        name="verdicts",
        columns=("measured", "ours", "published", "verdict", "source"),
        rows=tuple(rows),
        footnotes=(twins.ASSUMED,) if assumed else (),
    )
    return Beside(table=table, counts=counts)
