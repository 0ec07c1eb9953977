"""No rule goes by the wording of a text: texts rewritten into nonsense change no verdict, number or column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from result_files import BASE, BF16, EVAL, LOOKS, knn, prototypes, retrieval, vos

from evaltk import results
from evaltk.types import Deviation, DeviationKind, OriginProof, Preprocessing, Result
from reports import comparable, layouts
from reports.published import verdicts
from reports.table import Table
from reports.tables.beside_published import compare_with_published
from reports.tables.build import build_overview, build_tables

GOLDEN = Path(__file__).parents[1] / "golden" / "results_v1"
K = DeviationKind
# What old rules looked for, where it would do the most harm.
NONSENSE = ("gibberish", "images: original: not comparable with published figures", "resize 1, centre crop 1, fp32", "")


def deviating(*kinds: DeviationKind) -> dict[str, Any]:
    return {"deviations": tuple(Deviation(kind=kind, text=f"text of {kind}") for kind in kinds), "notes": ("a note",)}


def some() -> list[Result]:
    """Results of every verdict."""
    made = [
        knn(),
        knn("off", 0.60, interval=(0.59, 0.61)),
        knn("base", 0.7611, arch=BASE),
        knn("part", **deviating(K.SPLIT_SIZE)),
        knn("smoke", **deviating(K.SMOKE_TEST, K.UNREADABLE_IMAGES)),
        knn("fine", **deviating(K.UNREADABLE_IMAGES)),
        knn("bf16", preprocessing=BF16),
        knn("cropped", preprocessing=replace(LOOKS, overrides={"crop": 192}, views={"eval": replace(EVAL, crop=192)})),
        knn("flat", origin_proof=OriginProof.NONE, branch="backbone"),
        knn("said", origin_proof=OriginProof.USER, branch="backbone"),
        retrieval("blurred"),
        retrieval("original", **deviating(K.ORIGINAL_IMAGES)),
        vos(),
        vos("half", **deviating(K.SPLIT_SIZE)),
        prototypes(),
    ]
    return made + [result for _, result in results.find(GOLDEN, skip=lambda path, why: None)]


def rewritten(result: Result, text: str) -> Result:
    """The result with every text in it replaced."""
    looks = result.preprocessing
    views = {name: replace(view, text=text) for name, view in looks.views.items()}
    return replace(
        result,
        deviations=tuple(replace(d, text=text) for d in result.deviations),
        notes=tuple(text for _ in result.notes),
        preprocessing=Preprocessing(
            precision=looks.precision, position=looks.position, overrides=looks.overrides, views=views
        ),
    )


def shown(made: Sequence[Table]) -> list[Any]:
    """All that a table decides: which columns and rows there are, numbers and verdicts."""
    return [
        (
            table.title,
            table.columns,
            [(label, [replace(cell, why="", remark="") for cell in cells]) for label, cells in table.rows],
        )
        for table in made
    ]


def everything(found: Sequence[Result]) -> list[Table]:
    made = build_overview(found)
    for name in layouts.names():
        if name != "compare":
            made += build_tables(layouts.load(name), found)
    beside = compare_with_published(found)
    assert beside.table is not None
    return [*made, beside.table]


@pytest.mark.parametrize("text", NONSENSE)
def test_texts_decide_nothing(text: str) -> None:
    before = some()
    after = [rewritten(result, text) for result in before]
    assert before != after
    assert shown(everything(before)) == shown(everything(after))
    assert compare_with_published(before).counts == compare_with_published(after).counts
    for layout in layouts.protocols().values():
        columns = [[[r.request for r in group] for group in comparable.groups(f, layout)] for f in (before, after)]
        assert columns[0] == columns[1]


def test_the_results_above_have_every_verdict() -> None:
    counts = compare_with_published(some()).counts
    assert set(counts) >= {verdicts.REPRODUCED, verdicts.OFF, verdicts.NOT_COMPARABLE} and all(counts.values())


def test_a_kind_alone_decides() -> None:
    def verdict(kind: DeviationKind) -> str:
        table = compare_with_published([knn(deviations=(Deviation(kind=kind, text=""),))]).table
        assert table is not None
        return table.rows[0][1][3].verdict

    decided = {kind for kind in DeviationKind if verdict(kind) == verdicts.NOT_COMPARABLE}
    assert decided == {
        K.SPLIT_SIZE, K.CLASS_COUNT, K.GROUND_TRUTH, K.HELD_OUT, K.NO_AUGMENTATION, K.EPOCHS, K.RECIPE, K.SMOKE_TEST,
        K.UNCLASSIFIED, K.THEIRS,
    }  # fmt: skip
