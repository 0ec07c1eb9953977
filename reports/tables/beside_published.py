"""Comparison with published numbers: one table, and how many were reproduced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaltk.types import OriginProof, Result
from reports import comparable
from reports.published import match, verdicts
from reports.table import Cell, Table
from reports.tables import cells

NO_PUBLISHED = "no published number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A table of all scores with a published match (None if there are none), and {verdict: count}."""

    table: Table | None
    counts: Mapping[str, int]


def checkpoint_names(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    """{checkpoint identity: label}."""
    first = {comparable.identity(result): result for result in reversed(results)}
    order = list(dict.fromkeys(map(comparable.identity, results)))
    return dict(zip(order, comparable.labels([first[who] for who in order]), strict=True))


def compare_with_published(results: Sequence[Result]) -> Comparison:
    """Every score with a published match, and the verdict on it."""
    called = checkpoint_names(results)
    counts = dict.fromkeys((verdicts.REPRODUCED, verdicts.OFF, verdicts.NOT_COMPARABLE, NO_PUBLISHED), 0)
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    assumed = False
    for result in results:
        compared = 0
        for found in match.every(result):
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
            what = f"{result.protocol} {result.data.name}: {found.extra.title}"
            printed = Cell(value=row.value, unit="as printed", digits=row.digits)
            verdict = Cell(verdict=cell.verdict, why=cell.why, remark=cell.remark)
            label = called[comparable.identity(result)]
            rows.append((label, (Cell(note=what), ours, printed, verdict, Cell(note=f"{row.source}"))))
        counts[NO_PUBLISHED] += not compared
    order = list(counts)
    rows.sort(key=lambda row: order.index(row[1][3].verdict))  # verdicts first, else in order
    if not rows:
        return Comparison(table=None, counts=counts)
    table = Table(
        title="Our results and the published numbers",
        name="verdicts",
        columns=("result", "ours", "published", "verdict", "source"),
        rows=tuple(rows),
        legend=(match.ASSUMED,) if assumed else (),
    )
    return Comparison(table=table, counts=counts)


def counted(results: Sequence[Result]) -> str:
    """How many numbers have a published counterpart, by verdict: ``2 reproduced, 1 off``; empty if none has."""
    counts = compare_with_published(results).counts
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n and verdict != NO_PUBLISHED)
