"""The layout `sweep`: what was swept in long form; and the layouts that are shipped."""

from __future__ import annotations

import csv
import io

from result_files import BF16, knn, made

from evaltk.types import Score
from reports import layouts
from reports.formats.render import render
from reports.tables.build import build_tables

SWEEP = layouts.load("sweep")


def test_sweep_is_long_form() -> None:
    scores = [
        Score(dataset="digits", split="val", metric="top1", value=k / 300, n=9, at={"k": k, "temperature": t})
        for k in (5, 200)
        for t in (0.07, 0.1)
    ]
    (table,) = build_tables(SWEEP, [made("a", "knn", "digits", scores), made("b", "knn", "digits", scores[:1])])
    assert table.title == "Sweep: k-NN top-1 (%) on digits" and table.columns == ("k", "temperature", "top1", "n")
    rows = [[label, *(c.value for c in cells)] for label, cells in table.rows]
    assert [row[:3] for row in rows] == [
        ["a", 5, 0.07],
        ["a", 5, 0.1],
        ["a", 200, 0.07],
        ["a", 200, 0.1],
        ["b", 5, 0.07],
    ]
    assert "| a          | 200 |         0.1 | 66.67 |   9 |" in render(table, "md")
    assert len(list(csv.DictReader(io.StringIO(render(table, "csv"))))) == 5 * 4


def test_sweeps_of_other_runs_are_told_apart() -> None:
    made_ = build_tables(SWEEP, [knn("a"), knn("b", preprocessing=BF16)])
    assert [t.title for t in made_] == [f"Sweep: k-NN top-1 (%) on imagenet [precision {p}]" for p in ("fp32", "bf16")]


def test_thresholds_and_words_are_settings_too() -> None:
    scores = [
        Score(dataset="d", split="weights", metric="unique_count", value=12, n=99, at={"threshold": t})
        for t in (0.5, 0.95, "x")
    ]
    (table,) = build_tables(SWEEP, [made("a", "prototypes", "d", scores)])
    text = render(table, "md")
    assert "| a          |       0.5 |           12 |  99 |" in text and "| a          |         x |" in text


def test_layouts_of_the_shipped_kinds() -> None:
    kinds = {name: type(layouts.load(name)).__name__ for name in layouts.names()}
    assert [kinds[f"paper/table{n}"] for n in range(1, 16)] == ["Paper"] * 15
    assert {kinds[name] for name in ("summary", "sweep", "compare", "published")} == {"Over"}
    names = layouts.names()
    assert names.index("paper/table9") < names.index("paper/table10")
    assert {layout.protocol for layout in layouts.protocols().values()} == set(layouts.protocols())
