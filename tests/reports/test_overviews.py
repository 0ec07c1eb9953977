"""Tables over all protocols: headline figures, and what was swept in long form."""

from __future__ import annotations

import csv
import io

from result_files import BASE, BF16, knn, made, prototypes, retrieval, vos

from evaltk.types import Result, Score
from reports import layouts
from reports.formats.render import render
from reports.tables.build import build_tables

SUMMARY, SWEEP = layouts.load("summary"), layouts.load("sweep")


def test_summary_has_the_headline_of_each_protocol_and_data_set() -> None:
    results = [
        retrieval(),
        vos(),
        knn(),
        knn("dino_vitb16", 0.76, arch=BASE),
        knn("dino_vitb16", 0.9, dataset="cifar10", arch=BASE),
    ]
    (table,) = build_tables(SUMMARY, results)
    assert table.columns == (
        "knn imagenet: best k",
        "knn cifar10: best k",
        "retrieval rparis6k: M mAP",
        "vos davis2017: J&F",
    )
    assert [(label, [c.value for c in cells]) for label, cells in table.rows] == [
        ("dino_vits16", [0.745, None, 0.63, 0.62]),
        ("dino_vitb16", [0.76, 0.9, None, None]),
    ]
    assert [c.verdict for c in table.rows[0][1]] == ["reproduced", "", "reproduced", "reproduced"]
    assert "best k: chosen on the reported split, as in the papers" in table.legend


def test_what_does_not_belong_together_has_columns_of_its_own() -> None:
    results = [knn("a"), knn("b", preprocessing=BF16), knn("c", seed=3)]
    (table,) = build_tables(SUMMARY, results)
    assert table.columns == (
        "knn imagenet: best k [precision fp32, seed 0]",
        "knn imagenet: best k [precision bf16, seed 0]",
        "knn imagenet: best k [precision fp32, seed 3]",
    )
    assert all(sum(c.value is not None for c in cells) == 1 for _, cells in table.rows)


def test_two_results_of_one_checkpoint_have_a_column_each() -> None:
    (table,) = build_tables(SUMMARY, [knn("a"), knn("a", 0.7, settings={"k": [20]}), knn("b")])
    assert table.columns == ("knn imagenet: best k (1)", "knn imagenet: best k (2)")
    assert [[c.value for c in cells] for _, cells in table.rows] == [[0.745, 0.7], [0.745, None]]


def test_counts_stay_counts() -> None:
    (table,) = build_tables(SUMMARY, [prototypes()])
    assert table.columns == ("prototypes digits: largest set",) and "54877 (threshold=0.9)" in render(table, "md")


def test_nothing_for_nothing() -> None:
    strange = made("x", "a protocol nobody knows", "digits", [])
    assert build_tables(SUMMARY, []) == build_tables(SWEEP, []) == build_tables(SUMMARY, [strange]) == []


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
    assert {kinds[name] for name in ("summary", "sweep", "compare")} == {"Over"}
    names = layouts.names()
    assert names.index("paper/table9") < names.index("paper/table10")
    assert {layout.protocol for layout in layouts.protocols().values()} == set(layouts.protocols())


def test_a_headline_that_is_swept_has_a_column_a_value() -> None:
    def fewshot(name: str, shift: float, shots: tuple[object, ...]) -> Result:
        scores = [
            Score(dataset="d", split="t", metric="top1_mean", value=0.5 + shift, n=9, at={"shots": s, "penalty": 0.075})
            for s in shots
        ]
        return made(name, "fewshot", "d", scores, settings={"shots": list(shots)})

    (table,) = build_tables(SUMMARY, [fewshot("a", 0.0, (1, 5, "1 %")), fewshot("b", 0.1, (1, 2))])
    assert table.columns == tuple(f"fewshot d: shots={s}" for s in (1, 2, 5, "1 %"))
    assert [[c.value for c in cells] for _, cells in table.rows] == [[0.5, None, 0.5, 0.5], [0.6, 0.6, None, None]]
