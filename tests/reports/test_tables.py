"""Tables: values and published numbers in their cells, and results that do not belong together kept apart."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest

from evaltk.errors import SettingsError
from evaltk.types import Deviation, DeviationKind, OriginProof, Preprocessing, Result, ResultData, Score
from reports import layouts
from reports.formats.render import render
from reports.published import match
from reports.table import Cell, Table
from reports.tables.beside_published import compare_with_published
from reports.tables.build import build_overview, build_tables

KNN = layouts.load("knn")


def a_result(
    name: str = "net",
    *,
    top1: dict[tuple[int, float], float] | None = None,
    dataset: str = "digits",
    fingerprint: str = "f" * 64,
    n: int = 1000,
    family: str = "timm",
    arch: str = "vit_tiny_patch16_224",
    branch: str = "teacher",
    best: tuple[int, float] | None = (20, 0.5),
    notes: tuple[str, ...] = (),
    looks: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **given: Any,
) -> Result:
    top1 = top1 or {(10, 0.07): 0.4, (20, 0.07): 0.5}
    base = {"dataset": dataset, "split": "test", "n": n}
    scores = [
        Score(**base, metric="top1", value=v, at={"k": k, "temperature": t}, interval=(v - 0.01, v + 0.01))
        for (k, t), v in top1.items()
    ]
    if best:
        at = {"k": best[0], "temperature": 0.07, "chosen_on": "the reported split"}
        scores.append(Score(**base, metric="top1_best_k", value=best[1], at=at))
    return Result(
        checkpoint={"name": name, "family": family, "branch": branch, "arch": {"name": arch}},
        protocol="knn",
        version=given.pop("version", 1),
        settings=settings or {},
        data=ResultData(name=dataset, fingerprint=fingerprint),
        preprocessing=Preprocessing(**({"precision": "fp32", "position": "dino"} | (looks or {}))),
        origin_proof=given.pop("origin_proof", OriginProof.LAYOUT),
        deviations=given.pop("deviations", ()),
        notes=notes,
        scores=tuple(scores),
        seed=given.pop("seed", 0),
        request=given.pop("request", "0123456789ab"),
        made={},
    )


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table's lines, without the rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines if not line.startswith("|-")]


def test_markdown() -> None:
    results = [a_result("a"), a_result("b|c", top1={(20, 0.07): 0.12346, (100, 0.07): 1.0}, best=(20, 0.12346))]
    (table,) = build_tables(KNN, results)
    text = render(table, "md")
    assert text.startswith("### k-NN top-1 (%) on digits test, n = 1,000\n\n| checkpoint ")
    assert cells(text) == [
        ["| checkpoint", "k=10", "k=20", "k=100", "best k |"],
        ["| a", "40.00 [39.00, 41.00]", "50.00 [49.00, 51.00]", "-", "50.00 (k=20) |"],
        ["| b\\|c", "-", "12.35 [11.35, 13.35]", "100.00 [99.00, 101.00]", "12.35 (k=20) |"],
    ]
    assert text.rstrip().endswith("- best k: chosen on the reported split, as in the papers")
    widths = {len(line) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1  # reads as plain text too


def test_csv_keeps_all_digits() -> None:
    value = 0.123456789012345
    (table,) = build_tables(KNN, [a_result("a, b", top1={(20, 0.07): value}, best=None)])
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert len(rows) == 1 and rows[0]["checkpoint"] == "a, b" and rows[0]["column"] == "k=20"
    assert float(rows[0]["value"]) == 100 * value
    assert (float(rows[0]["low"]), float(rows[0]["high"])) == (100 * (value - 0.01), 100 * (value + 0.01))
    assert rows[0]["published"] == rows[0]["note"] == ""


def imagenet(**given: Any) -> Result:
    base = {
        "name": "dino_vits16",
        "dataset": "imagenet",
        "family": "dino",
        "arch": "vit_small_patch16_224",
        "n": 50_000,
    }
    return a_result(**(base | {"top1": {(20, 0.07): 0.745}, "best": (20, 0.745)} | given))


def test_published_numbers_stand_beside_ours() -> None:
    (table,) = build_tables(KNN, [imagenet()])
    ((label, (swept, best)),) = table.rows
    assert (label, swept.published, best.published) == ("dino_vits16", None, 74.44)  # the paper tells of its best k
    assert "74.50 (k=20); published 74.44: not comparable [a]" in render(table, "md")
    assert "- [a] not comparable: preprocessing not recorded; k not recorded" in render(table, "md")
    assert [r["published"] for r in csv.DictReader(io.StringIO(render(table, "csv")))] == ["", "74.44"]


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ({"arch": "vit_base_patch16_224"}, 76.11),
        ({"family": "msn", "branch": "target_encoder"}, 74.86),
        ({"family": "ibot", "arch": "vit_base_patch16_224"}, 77.10),
        ({"branch": "backbone"}, 74.44),
        ({"branch": "student"}, None),  # the papers report the teacher
        ({"family": "msn", "branch": "encoder"}, None),
        ({"family": "timm"}, None),
        ({"arch": "vit_p7_d99_l3_h1"}, None),
        ({"dataset": "my-imagenet"}, None),
        ({"dataset": "cifar10"}, None),
        ({"looks": {"overrides": {"resize": 512}}}, 74.44),  # beside it, but not comparable
        ({"branch": "backbone", "origin_proof": OriginProof.SHA256}, 74.44),
        ({"branch": "backbone", "origin_proof": OriginProof.USER}, 74.44),
        ({"branch": "backbone", "origin_proof": OriginProof.NONE}, None),  # a flat file of anyone
    ],
)
def test_which_published_number(given: dict[str, Any], published: float | None) -> None:
    (table,) = build_tables(KNN, [imagenet(**given)])
    assert table.rows[0][1][-1].published == published


def test_an_incomplete_imagenet_is_not_compared() -> None:
    text = "val has 1,000 images, ImageNet-1K 50,000"
    deviations = (Deviation(kind=DeviationKind.SPLIT_SIZE, text=text),)
    (table,) = build_tables(KNN, [imagenet(deviations=deviations)])
    best = table.rows[0][1][-1]
    assert best.verdict == "not comparable" and best.why.startswith("val has 1,000 images, ImageNet-1K 50,000")
    assert f"{text}: not comparable with published figures" in table.footnotes


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"fingerprint": "e" * 64}, "fingerprint eeeeeeeeeeee"),
        ({"version": 2}, "protocol version 2"),
        ({"looks": {"precision": "bf16"}}, "precision bf16"),
        ({"looks": {"position": "timm"}}, "position rule timm"),
        ({"seed": 1}, "seed 1"),
        ({"looks": {"overrides": {"crop": 200}}}, "preprocessing crop 200"),
        ({"settings": {"choose": 100}}, "choose 100"),
        ({"settings": {"precision": "bf16"}}, "knn.precision bf16"),  # a protocol's setting hides no field
        ({"deviations": (Deviation(kind=DeviationKind.SMOKE_TEST, text="10 images"),)}, "smoke test yes"),
    ],
)
def test_results_that_do_not_belong_together_never_share_a_table(other: dict[str, Any], told: str) -> None:
    made = build_tables(KNN, [a_result("a"), a_result("b", **other), a_result("c")])
    assert [[label for label, _ in table.rows] for table in made] == [["a", "c"], ["b"]]
    assert made[1].title.endswith(f"n = 1,000 [{told}]")
    assert made[0].title != made[1].title and made[0].title.endswith("]")


def test_tables_of_other_data_sets_are_told_apart_by_their_title_alone() -> None:
    made = build_tables(KNN, [a_result("a"), a_result("b", dataset="pets")])
    assert [t.title for t in made] == [f"k-NN top-1 (%) on {d} test, n = 1,000" for d in ("digits", "pets")]


def test_several_temperatures_are_named() -> None:
    swept = {(20, 0.07): 0.1, (20, 0.2): 0.2, (5, 0.07): 0.3, (100, 0.2): 0.4}
    (table,) = build_tables(KNN, [a_result(top1=swept, best=None)])
    titles = ["k=5, temperature 0.07", "k=20, temperature 0.07", "k=20, temperature 0.2", "k=100, temperature 0.2"]
    assert list(table.columns) == titles
    assert [cell.value for cell in table.rows[0][1]] == pytest.approx([0.3, 0.1, 0.2, 0.4])
    (table,) = build_tables(KNN, [a_result(top1={(20, 0.07): 0.1}), a_result(top1={(20, 0.2): 0.2})])
    values = [[c.value for c in row[1][:2]] for row in table.rows]
    assert values == [[pytest.approx(0.1), None], [None, pytest.approx(0.2)]]  # never in one column


def test_labels_tell_rows_apart() -> None:
    def labels(*results: Result) -> list[str]:
        (table,) = build_tables(KNN, results)
        return [label for label, _ in table.rows]

    assert labels(a_result("a"), a_result("b")) == ["a", "b"]
    assert labels(a_result("a"), a_result("a", branch="student")) == ["a teacher", "a student"]
    assert labels(a_result("a", request="1" * 64), a_result("a", request="2" * 64), a_result("b")) == [
        "a (111111)", "a (222222)", "b",
    ]  # fmt: skip


def test_notes_say_whose_they_are() -> None:
    (table,) = build_tables(KNN, [a_result("a", notes=("all", "mine")), a_result("b", notes=("all",))])
    assert table.footnotes == ("all", "a: mine")


def test_other_numbers_of_images_are_told() -> None:
    (table,) = build_tables(KNN, [a_result("a"), a_result("b", n=998)])
    assert table.title.endswith("on digits test, n = 998 to 1,000")


def test_settings_that_columns_tell_or_that_change_no_number_share_a_table() -> None:
    results = [
        a_result("a", settings={"k": [10, 20], "backend": "torch"}),
        a_result("b", settings={"k": [5, 20], "backend": "faiss"}),
    ]
    (table,) = build_tables(KNN, results)
    assert len(table.rows) == 2 and "different k: 10 20; 5 20" in table.footnotes


def test_no_results_no_tables() -> None:
    assert build_tables(KNN, []) == [] and build_overview([]) == []
    assert build_tables(KNN, [replace(a_result(), protocol="linear")]) == []
    assert len(build_overview([a_result(), a_result("b")])) == 1


def test_a_protocol_without_a_layout_has_a_plain_table() -> None:
    plain = [replace(a_result(name), protocol="new") for name in ("a", "b")]
    few = replace(a_result("c", top1={(10, 0.07): 0.25}, best=None), protocol="new")
    (table,) = build_overview([*plain, few])
    assert table.title == "new on digits" and table.columns[0] == "top1 k=10 temperature=0.07"
    assert [label for label, _ in table.rows] == ["a", "b", "c"]
    assert [cells[0].value for _, cells in table.rows] == [0.4, 0.4, 0.25] and table.rows[2][1][1].value is None
    text = render(table, "md")
    assert "0.4000 [0.3900, 0.4100]" in text and "0.2500" in text
    apart = build_overview([plain[0], replace(plain[1], version=2)])
    assert [t.title for t in apart] == [f"new on digits [protocol version {v}]" for v in (1, 2)]


def test_a_number_on_the_users_word_says_so() -> None:
    (table,) = build_tables(KNN, [imagenet(branch="backbone", origin_proof=OriginProof.USER)])
    assert table.rows[0][1][-1].remark == match.FAMILY_GIVEN and match.ASSUMED not in table.legend
    text = render(table, "md")
    assert match.FAMILY_GIVEN in text
    made = compare_with_published([imagenet(branch="backbone", origin_proof=OriginProof.USER)]).table
    assert made is not None and made.rows[0][1][3].remark == match.FAMILY_GIVEN and not made.footnotes


def test_what_a_layout_proves_and_what_it_does_not_is_told() -> None:
    for proof, told in ((OriginProof.LAYOUT, True), (OriginProof.SHA256, False), (OriginProof.NONE, False)):
        (table,) = build_tables(KNN, [imagenet(origin_proof=proof)])
        assert (match.ASSUMED in table.legend) == told and table.rows[0][1][-1].remark == ""


def test_a_flat_file_of_anyone_has_a_row_of_its_own_in_the_papers_table() -> None:
    (table,) = build_tables(layouts.load("paper/table2"), [imagenet(name="mine", origin_proof=OriginProof.NONE)])
    ((label, cell),) = [(label, c) for label, row in table.rows for c in row if c.value is not None]
    assert (label, cell.published, cell.verdict) == ("mine", None, "")


def test_forms_and_layouts_that_are_not_there() -> None:
    table = Table(title="t", columns=("c",), rows=(("a", (Cell(),)),))
    with pytest.raises(SettingsError, match=r"there are: .*md"):
        render(table, "word")
    with pytest.raises(SettingsError, match="did you mean 'knn'"):
        layouts.load("kn")
    with pytest.raises(SettingsError, match=r"did you mean .*'paper/table5'"):
        layouts.load("paper/table55")
    assert cells(render(table, "md")) == [["| checkpoint", "c |"], ["| a", "- |"]]
    assert len(render(table, "csv").splitlines()) == 1


@pytest.mark.parametrize(
    ("head", "method"),
    [
        ({"kind": "dino", "scoring": "vmf", "centering": "probability"}, "DINO-vMF"),
        ({"kind": "ibot", "scoring": "vmf", "centering": "probability"}, "iBOT-vMF"),
        ({"kind": "dino", "scoring": "linear", "centering": "logit"}, "DINO"),
        ({"kind": "msn", "scoring": "cosine", "centering": None}, "MSN"),
        (None, ""),
    ],
)
def test_a_file_of_our_own_is_of_the_method_its_head_tells(head: dict[str, Any] | None, method: str) -> None:
    result = imagenet(family="own")
    result = replace(result, checkpoint={**result.checkpoint, "head": head})
    assert {found.method for found in match.every(result)} == {method}


@pytest.mark.parametrize("scoring", ["linear", "cosine", "vmf"])
@pytest.mark.parametrize("centering", ["logit", "probability"])
def test_a_run_of_the_ablation_stands_in_table_1(scoring: str, centering: str) -> None:
    result = imagenet(family="own", name="mine")
    head = {"kind": "dino", "scoring": scoring, "centering": centering}
    made = [replace(result, checkpoint={**result.checkpoint, "head": head, "epoch": epoch}) for epoch in (100, 800)]
    (short,), (long,) = (list(match.every(r)) for r in made)
    assert (short.task, long.task) == ("ablation_knn", "imagenet_knn")
    row = short.row()
    assert row is not None and row.table == "1" and f"centering={centering}" in row.variant
    (table, *_) = build_tables(layouts.load("paper/table1"), made[:1])
    ours = [cell for _, cells in table.rows for cell in cells if cell.value is not None and cell.published is not None]
    assert [cell.published for cell in ours] == [row.value]


@pytest.mark.parametrize(("seed", "name"), [(0, "seed 0"), (42, "seed 42"), (7, None)])
def test_a_run_of_the_ablation_stands_in_table_8_by_its_training_seed(seed: int, name: str | None) -> None:
    result = imagenet(family="own", name="mine")
    head = {"kind": "dino", "scoring": "vmf", "centering": "probability"}
    result = replace(result, checkpoint={**result.checkpoint, "head": head, "epoch": 100, "trained_seed": seed})
    (table, *_) = build_tables(layouts.load("paper/table8"), [result])
    ours = {label: cell for label, cells in table.rows for cell in cells if cell.value is not None}
    assert list(ours) == ([f"vMF, {name}"] if name else [])
    for cell in ours.values():
        assert cell.published in (71.12, 70.62) and cell.verdict
    beside = compare_with_published([result])
    assert beside.table is not None and len(beside.table.rows) == (2 if name else 1)
    printed = {row[2].value for _, row in beside.table.rows}
    assert printed == {70.87} | {cell.published for cell in ours.values()}
    assert all(row[3].verdict for _, row in beside.table.rows)


@pytest.mark.parametrize(
    ("data", "recipe", "epochs", "verdict"),
    [
        ("imagenet", "imagenet", 200, "reproduced"),
        ("imagenet", "small", 200, "not comparable"),
        ("imagenet", "imagenet", 3, "not comparable"),
        ("cifar10", "small", 1000, "off"),
    ],
)
def test_a_fine_tuned_net_stands_in_table_14(data: str, recipe: str, epochs: int, verdict: str) -> None:
    base = imagenet(dataset=data)
    at = {"recipe": recipe, "lr": 0.001, "epoch": epochs, "metric": "top1", "chosen_on": "the reported split"}
    score = Score(dataset=data, split="val", metric="top1_best_epoch", value=0.8215, n=50_000, at=at)
    deviation = Deviation(kind=DeviationKind.RECIPE, text="fine-tuning apart from the recipe: epochs 3 for 200")
    deviations = (deviation,) if epochs == 3 else ()
    result = replace(base, protocol="finetune", scores=(score,), deviations=deviations)
    (table,) = build_tables(layouts.load("paper/table14"), [result])
    ((label, cell),) = [(label, c) for label, row in table.rows for c in row if c.value is not None]
    assert (label, cell.published, cell.verdict) == ("DINO", {"imagenet": 82.0, "cifar10": 99.0}[data], verdict)
