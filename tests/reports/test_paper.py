"""The paper's fifteen tables: rebuilt from published data cell for cell, and ours beside their twins."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import Any

import pytest
from result_files import BASE, BF16, K, knn, made, prototypes, retrieval, vos

from evaltk.errors import SettingsError
from evaltk.types import Result, Score
from reports import layouts
from reports.formats.render import render
from reports.layouts import Line, Paper
from reports.published.load import FOLDER, select_published
from reports.table import Cell, Table
from reports.tables import paper
from reports.tables.build import build_tables

NUMBERS = range(1, 16)
SHAPES = {  # (rows, columns, numbers), counted in the paper's tables
    1: (3, 2, 6), 2: (10, 4, 27), 3: (4, 8, 32), 4: (2, 4, 8), 5: (8, 10, 80), 6: (8, 4, 32), 7: (8, 3, 24),
    8: (6, 2, 12), 9: (9, 4, 19), 10: (9, 4, 19), 11: (2, 3, 6), 12: (3, 5, 15), 13: (3, 3, 9), 14: (6, 5, 23),
    15: (8, 5, 30),
}  # fmt: skip


def layout(n: int) -> Paper:
    found = layouts.load(f"paper/table{n}")
    assert isinstance(found, Paper)
    return found


def alone(n: int) -> Table:
    (table,) = build_tables(layout(n), [])
    return table


def cell(table: Table, row: str, column: str) -> Cell:
    return dict(table.rows)[row][table.columns.index(column)]


@pytest.mark.parametrize("n", NUMBERS)
def test_rebuilt_from_published_data_alone(n: int) -> None:
    """Every number of the CSV stands in exactly one cell, as printed, and no cell has any other."""
    rows = paper.numbers(layout(n))
    assert Counter(rows.values()) == Counter(select_published(table=n))
    table = alone(n)
    shape = (len(table.rows), len(table.columns), len(rows))
    assert shape == SHAPES[n]
    with (FOLDER / "dino_vmf.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["table"] == str(n)]
    found = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    printed = Counter((line["value"], line["std"], line["unit"]) for line in lines)
    assert Counter((f["published"], f["published_std"], f["unit"]) for f in found) == printed
    assert all(f["value"] == f["verdict"] == f["bold"] == "" for f in found)
    for (r, c), row in rows.items():
        one = table.rows[r][1][c]
        assert (one.published, one.published_spread, one.value) == (row.value, row.std, None)


def test_342_numbers_in_all() -> None:
    assert sum(len(paper.numbers(layout(n))) for n in NUMBERS) == 342 == sum(count for _, _, count in SHAPES.values())


@pytest.mark.parametrize("n", NUMBERS)
def test_rows_and_columns_stand_in_the_order_of_the_source(n: int) -> None:
    """The CSV goes through each table line by line: first appearances along both axes rise."""
    place = {row: at for at, row in paper.numbers(layout(n)).items()}
    order = [place[row] for row in select_published(table=n)]
    rows, columns = (list(dict.fromkeys(at[i] for at in order)) for i in (0, 1))
    assert rows == sorted(rows) or columns == sorted(columns)
    if n not in (14, 15):  # blank cells: the first rows do not name all columns
        assert rows == sorted(rows) and columns == sorted(columns)


def test_single_cells_read_from_the_paper() -> None:
    assert cell(alone(1), "vMF", "probability").published == 70.87
    assert cell(alone(2), "iBOT-vMF ViT-B/16", "Lin.[D]").published == 80.27
    assert cell(alone(3), "1 % of images", "iBOT-vMF ViT-B/16").published == 72.3
    assert cell(alone(4), "ViT-B/16", "largest set: DINO").published == 54877
    assert cell(alone(5), "DINO-vMF ViT-S/16", "Aircraft").published == 56.0
    assert cell(alone(6), "DINO ViT-S/16", "ROx Hard").published == 13.0
    assert cell(alone(7), "MSN ViT-S/16", "F").published == 61.6
    assert cell(alone(8), "none, seed 42", "logit").published == 69.93
    assert cell(alone(11), "DINO-vMF", "kNN").published == 70.41
    assert cell(alone(12), "2 images per class", "iBOT").published_spread == 0.8
    assert cell(alone(15), "MAE", "ImageNet").published == 83.6
    assert cell(alone(15), "MAE", "CIFAR10") == Cell()


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (1, "69.54"), (2, "other way round"), (2, "cannot be told"), (3, "quoted from MSN"), (4, "83.7 %"),
        (5, "five-fold"), (6, "blurred"), (8, "69.86"), (9, "cannot be told"), (11, "78.3"), (12, "three splits"),
        (14, "inferred"),
    ],
)  # fmt: skip
def test_what_is_odd_in_the_paper_is_told(n: int, told: str) -> None:
    assert told in render(alone(n), "md")


def test_digits_are_those_printed() -> None:
    text = render(alone(2), "md")
    assert "77.10" in text and "75.20" in text
    assert "41.8 ± 0.3" in render(alone(12), "md")
    assert " 54877 [a] |" in render(alone(4), "md")
    assert "73.4 " in render(alone(9), "md") and "74.44" in render(alone(9), "md")  # both as printed, in one table


def test_ours_stand_beside_their_twins() -> None:
    results = [knn(), knn("dino_vitb16", 0.7590, arch=BASE), knn("untrained", 0.05, family="random")]
    (table,) = build_tables(layout(2), results)
    assert [label for label, _ in table.rows][-1] == "untrained" and len(table.rows) == 11
    small = cell(table, "DINO ViT-S/16", "kNN")
    assert (small.value, small.published, small.verdict) == (0.745, 74.44, "reproduced")
    assert cell(table, "DINO ViT-B/16", "kNN").verdict == "reproduced"
    own = cell(table, "untrained", "kNN")
    assert (own.value, own.published, own.verdict) == (0.05, None, "")
    assert cell(table, "MSN ViT-S/16", "kNN").value is None
    text = render(table, "md")
    assert "74.50 [74.10, 74.90] (k=20); published 74.44: reproduced (+0.06; tolerance 0.15 and interval)" in text
    assert " (77.10) |" in text and "in parentheses: published, not measured here" in text
    assert "measured here: dino_vits16 for DINO ViT-S/16, dino_vitb16 for DINO ViT-B/16" in text
    assert "identity not verified" in text


def test_the_short_runs_of_table_11_are_not_the_public_weights() -> None:
    public = knn("dino_vits8", 0.783, arch="vit_small_patch8_224")
    (table,) = build_tables(layout(11), [public])
    assert (cell(table, "DINO", "kNN").verdict, cell(table, "DINO", "kNN").why) == (
        "not comparable",
        "epochs not recorded",
    )
    (table,) = build_tables(layout(11), [knn("mine", 0.70, arch="vit_small_patch8_224", epoch=40)])
    assert cell(table, "DINO", "kNN").verdict == "reproduced"


def test_counts_are_exact_or_off() -> None:
    (table,) = build_tables(layout(4), [prototypes(unique=775, largest=54_878)])
    unique, largest = (cell(table, "ViT-B/16", f"{kind}: DINO") for kind in ("unique", "largest set"))
    assert (unique.verdict, unique.why) == ("reproduced", "+0; exact")
    assert (largest.verdict, largest.why) == ("off", "+1")
    assert "54878 (threshold=0.9); published 54877: off by +1 [a]" in render(table, "md")


def test_checkpoints_without_a_twin_where_methods_are_columns() -> None:
    """There is no row for them: they have a table of their own."""
    made = build_tables(layout(4), [prototypes(), prototypes("mine", 12, 34, family="own")])
    assert [t.columns for t in made][1] == ("unique", "largest set")
    assert made[1].rows[0][0] == "mine" and [c.value for c in made[1].rows[0][1]] == [12, 34]
    assert made[1].title.endswith("checkpoints without a published match")


def test_a_second_result_of_one_net_has_a_row_of_its_own() -> None:
    (table,) = build_tables(layout(2), [knn(), knn("dino_vits16_full", 0.7449, epoch=800)])
    assert cell(table, "DINO ViT-S/16", "kNN").value == 0.745
    assert cell(table, "dino_vits16_full", "kNN").value == pytest.approx(0.7449)


def test_nets_published_elsewhere_stay_out() -> None:
    """Table 10 is about ViT-B/16: the public ViT-S/16 stands in Table 9."""
    (table,) = build_tables(layout(10), [knn()])
    assert [label for label, _ in table.rows] == [label for label, _ in alone(10).rows]


def test_results_that_do_not_belong_together_make_further_tables() -> None:
    results = [knn(), knn("dino_vitb16", 0.76, arch=BASE, preprocessing=BF16)]
    first, second = build_tables(layout(2), results)
    assert first.title.endswith("[precision fp32]") and second.title.endswith("[precision bf16]")
    assert cell(first, "DINO ViT-B/16", "kNN").value is None
    b = cell(second, "DINO ViT-B/16", "kNN")
    assert (b.verdict, b.why) == ("not comparable", "precision bf16 for fp32")


def test_several_data_sets_in_one_table() -> None:
    (table,) = build_tables(layout(6), [retrieval(), retrieval("msn", family="msn", branch="target_encoder")])
    assert cell(table, "DINO ViT-S/16", "RPar Medium").verdict == "reproduced"
    assert cell(table, "MSN ViT-S/16", "RPar Hard").value == 0.35
    assert cell(table, "MSN ViT-S/16", "ROx Hard").value is None
    (table,) = build_tables(layout(7), [vos()])
    assert [c.verdict for c in dict(table.rows)["DINO ViT-S/16"]] == ["reproduced"] * 3


@pytest.mark.parametrize("n", NUMBERS)
def test_results_of_other_protocols_change_nothing(n: int) -> None:
    other = [made("x", "knn", "my-photos", list(knn(dataset="my-photos").scores), settings={"k": K}), strange()]
    assert build_tables(layout(n), other) == [alone(n)]


def strange() -> Result:
    return made("y", "a protocol nobody knows", "imagenet", [])


def test_a_layout_that_says_too_little_is_an_error() -> None:
    rows = (Line(label="DINO", measure="DINO", where={"method": "DINO"}),)
    columns = (Line(label="kNN", measure="kNN", where={"variant": "kNN"}),)
    with pytest.raises(SettingsError, match="one number a cell; got 2 for DINO, kNN"):
        build_tables(Paper(name="x", title="x", table="2", rows=rows, columns=columns), [])


def layouts_read(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> object:
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setattr(layouts, "FOLDER", tmp_path)
    return layouts.load("mine")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "papr"', "kind 'papr'"),
        ('kind = "paper"\ntitle = "t"', "'rows'"),
        ("title = 3 =", "mine.toml"),
        ('title = "t"\nprotocol = "knn"\nsweeep = "k"', "unknown sweeep; did you mean 'sweep'"),
        ('title = "t"\nprotocol = "knn"\n[[extra]]\nname = "k"', "unexpected keyword argument 'name'"),
    ],
)
def test_damaged_layouts_are_named(text: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=r"wanted a table layout.*mine\.toml") as raised:
        layouts_read(text, monkeypatch, tmp_path)
    assert says in str(raised.value)


def transferred(name: str, shift: float, without: tuple[str, ...] = (), **given: Any) -> list[Result]:
    """Results on the nine sets of Table 5, each so many points from DINO ViT-S/16's."""
    ours = {extra.metric: extra for extra in layouts.protocols()["transfer"].extra if extra.published}
    found = []
    for metric, extra in ours.items():
        for mine, theirs in extra.published["dataset"].items():
            if mine not in without:
                (row,) = select_published(table=5, arch="ViT-S/16", method="DINO", dataset=theirs)
                value = (row.value + shift) / 100
                score = Score(dataset=mine, split="test", metric=metric, value=value, n=1000, at={"mode": "cv5"})
                found.append(made(name, "transfer", mine, [score], **given))
    return found


def test_the_average_of_nine() -> None:
    (table,) = build_tables(layout(5), transferred("dino_vits16", 0.3))
    nine = [c.value for c in dict(table.rows)["DINO ViT-S/16"]]
    average = cell(table, "DINO ViT-S/16", "Average")
    assert average.value == pytest.approx(sum(v for v in nine[:9] if v is not None) / 9)
    assert (average.published, average.verdict) == (81.8, "reproduced")
    (table,) = build_tables(layout(5), transferred("dino_vits16", 0.6))
    assert cell(table, "DINO ViT-S/16", "Average").verdict == "off"  # each is within 0.7, their mean is not within 0.4
    assert cell(table, "DINO ViT-S/16", "Pets").verdict == "reproduced"
    (table,) = build_tables(layout(5), transferred("dino_vits16", 0.0, without=("dtd",)))
    assert cell(table, "DINO ViT-S/16", "Average").value is None
    (table,) = build_tables(layout(5), transferred("dino_vits16", 0.0, preprocessing=BF16))
    assert cell(table, "DINO ViT-S/16", "Average").verdict == "not comparable"
    (table,) = build_tables(layout(5), transferred("mine", 0.0, family="random"))
    assert cell(table, "mine", "Average").value == pytest.approx(0.818, abs=0.0005)
