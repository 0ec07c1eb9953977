"""The result view: its columns, ranks, marks and notes, and what a user may choose of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from result_files import BASE, BF16, LOOKS, knn, made, predicted, prototypes, retrieval, vos, write

from evaltk.errors import SettingsError
from evaltk.types import Deviation, DeviationKind, Result, Score
from reports import layouts, paired
from reports.table import Table
from reports.tables import choosing, facts, view, winners
from reports.tables.build import build_tables

SUMMARY = layouts.load("summary")


def tuned(name: str, chosen: float, k20: float, best: float, *, dataset: str = "digits", **given: object) -> Result:
    """A k-NN result with all three ways to choose k."""
    at = {"k": 20, "temperature": 0.07}
    base = {"dataset": dataset, "split": "val", "n": 100}
    pairs = (("top1", k20, at), ("top1_best_k", best, at | {"k": 5}), ("top1_chosen_k", chosen, at | {"k": 10}))
    scores = [Score(metric=m, value=v, at=a, interval=(v - 0.03, v + 0.01), **base) for m, v, a in pairs]  # type: ignore[arg-type]
    return made(name, "knn", dataset, scores, settings={"k": [5, 10, 20]}, **given)


def one(results: list[Result], **given: object) -> Table:
    (table,) = build_tables(SUMMARY, results, **given)  # type: ignore[arg-type]
    return table


def test_the_headline_of_knn_is_the_k_chosen_on_training_images() -> None:
    table = one([tuned("a", 0.7, 0.65, 0.99)])
    assert table.titles() == ("k-NN chosen k", "k-NN k=20", "px") and table.title == "Results on digits val, n = 100"
    assert [cell.value for cell in table.rows[0][1]] == [0.7, 0.65, 224.0]
    # Where k was not chosen on training images, the fixed one stands for the protocol, never the best on the test set.
    assert one([knn()]).titles() == ("k-NN k=20", "px")
    assert view.headline(tuned("a", 0.7, 0.65, 0.99)) == "k-NN chosen k 70.00 % ± 2.00, k=20 65.00 % ± 2.00"


def test_one_column_per_protocol_and_dataset() -> None:
    results = [retrieval(), vos(), knn(), knn("b", 0.76, arch=BASE), knn("b", 0.9, dataset="cifar10", arch=BASE)]
    table = one(results)
    assert table.titles()[:5] == (
        "k-NN imagenet k=20",
        "k-NN cifar10 k=20",
        "retrieval rparis6k M mAP",
        "retrieval rparis6k H mAP",
        "video davis2017 J&F",
    )
    assert [(label, [c.value for c in cells[:5]]) for label, cells in table.rows] == [
        ("b", [0.76, 0.9, None, None, None]),
        ("dino_vits16", [0.745, None, 0.63, 0.35, 0.62]),
    ]


def test_what_does_not_belong_together_has_columns_of_its_own() -> None:
    table = one([knn("a"), knn("b", preprocessing=BF16), knn("c", seed=3)])
    assert table.columns[:3] == (
        "k=20 [precision fp32, seed 0]",
        "k=20 [precision bf16, seed 0]",
        "k=20 [precision fp32, seed 3]",
    )
    assert all(sum(c.value is not None for c in cells[:3]) == 1 for _, cells in table.rows)
    table = one([knn("a"), knn("a", 0.7, settings={"k": [20]}), knn("b")])
    assert [[c.value for c in cells[:2]] for _, cells in table.rows] == [[0.745, 0.7], [0.745, None]]


def test_a_swept_headline_has_a_column_per_value() -> None:
    def fewshot(name: str, shots: tuple[object, ...]) -> Result:
        scores = [
            Score(dataset="d", split="t", metric="top1_mean", value=0.5, n=9, at={"shots": s, "penalty": 0.075})
            for s in shots
        ]
        return made(name, "fewshot", "d", scores, settings={"shots": list(shots)})

    table = one([fewshot("a", (1, 5, "1 %")), fewshot("b", (1, 2))])
    assert table.titles()[:4] == tuple(f"few-shot {title}" for title in ("1/class", "2/class", "5/class", "1 %"))


def test_mean_rank_is_over_the_tasks_that_all_have() -> None:
    """Independently: ranks by counting, ties share; a column that a model lacks counts for none."""
    values = {"a": (0.9, 0.5), "b": (0.8, 0.7), "c": (0.8, 0.6)}
    results = [tuned(n, v[0], 0.5, 0.5) for n, v in values.items()]
    results += [tuned(n, v[1], 0.5, 0.5, dataset="cifar10") for n, v in values.items()]
    results.append(tuned("a", 0.9, 0.5, 0.5, dataset="third"))
    table = one(results)
    rank = {label: cells[table.titles().index(view.RANK)].value for label, cells in table.rows}
    assert rank == {"a": (1 + 3) / 2, "b": (2.5 + 1) / 2, "c": (2.5 + 2) / 2}
    assert "mean rank: over the 2 of 3 tasks that all models have" in table.legend
    assert view.RANK not in one(results[:1]).titles()  # one model has no rank


def test_best_and_second_are_marked_by_the_test(tmp_path: Path) -> None:
    right = np.arange(400) % 5 > 0
    worse, worst = right.copy(), right.copy()
    worse[:150], worst[:300] = False, False
    pairs = [predicted(name, mask) for name, mask in (("a", right), ("b", worse), ("c", worst))]
    found = write(tmp_path, pairs)
    table = one([r for _, r in found], predictions=paired.beside(found, print))
    marks = {label: (cells[0].bold, cells[0].second) for label, cells in table.rows}
    assert marks == {"a": (True, False), "b": (False, True), "c": (False, False)}
    assert view.SECOND in table.legend and any(text.startswith("bold: ") for text in table.legend)


def test_transfer_is_bold_as_in_its_own_layout(tmp_path: Path) -> None:
    """It was bold in the layout `transfer` and never here."""
    right = np.arange(200) % 5 > 0
    worse = right.copy()
    worse[:80] = False
    pairs = []
    for name, mask in (("a", right), ("b", worse)):
        at = {"mode": "cv5", "l2": 1.0}
        base = {"dataset": "digits", "split": "test", "value": float(mask.mean()), "n": 200}
        scores = [Score(metric="transfer", at=at | {"metric": "top1"}, **base), Score(metric="top1", at=at, **base)]  # type: ignore[arg-type]
        target = np.zeros(200, dtype=np.int64)
        arrays = {"target": target, "predicted": np.where(mask, target, 1)}
        pairs.append((made(name, "transfer", "digits", scores), arrays))
    found = write(tmp_path, pairs)
    results, predictions = [r for _, r in found], paired.beside(found, print)
    own = build_tables(layouts.load("transfer"), results, predictions=predictions)[0]
    assert [cells[0].bold for _, cells in own.rows] == [True, False]
    assert [cells[0].bold for _, cells in one(results, predictions=predictions).rows] == [True, False]


def test_an_analysis_is_shown_and_not_ranked() -> None:
    table = one([prototypes("a"), prototypes("b", unique=9)])
    assert table.titles()[0] == "prototypes unique" and view.RANK not in table.titles()
    strange = made("x", "nobody_knows", "digits", [Score(dataset="digits", split="t", metric="m", value=0.25, n=3)])
    assert one([strange]).titles()[0] == "nobody_knows m" and one([strange]).rows[0][1][0].value == 0.25
    assert build_tables(SUMMARY, []) == []


def test_notes_are_counted_and_a_smoke_test_is_always_said() -> None:
    smoke = Deviation(kind=DeviationKind.SMOKE_TEST, text="smoke test: 8 images")
    results = [tuned("a", 0.7, 0.6, 0.8, deviations=(smoke,), notes=("pixels as stored",)),
               tuned("b", 0.7, 0.6, 0.8, notes=("pixels as stored", "other"))]  # fmt: skip
    few = one(results, notes=False).footnotes
    assert any("smoke test: 8 images" in text for text in few) and few[-1] == "2 notes on data and settings: --notes"
    assert "pixels as stored" in one(results).footnotes and any(t.endswith(": other") for t in one(results).footnotes)


def test_parameters_are_shown_where_results_state_them() -> None:
    results = [tuned("a", 0.7, 0.6, 0.8), tuned("b", 0.6, 0.6, 0.8)]
    results[0] = replace(results[0], checkpoint={**results[0].checkpoint, "parameters": 21_670_000})
    table = one(results)
    at = table.titles().index(facts.PARAMETERS)
    assert [cells[at].value for _, cells in table.rows] == [21.67, None]
    both = replace(results[1], protocol="linear", preprocessing=replace(LOOKS, views={}), scores=())
    assert facts.SIZE in one([results[0], both]).titles()


NAMES = ("random:vit@1", "pixels:8", "dino")


@pytest.fixture
def table() -> Table:
    return one([tuned(n, v, 0.5 - v / 10, 0.9) for n, v in zip(NAMES, (0.3, 0.9, 0.6), strict=True)])


def test_columns_are_chosen_sorted_and_rounded(table: Table) -> None:
    assert [label for label, _ in table.rows] == ["pixels:8", "dino", "random:vit@1"]
    shown = choosing.shown(table, choosing.Choice(columns=("k=20", "chosen"), sort="k-NN k=20", digits=1))
    assert shown.titles() == ("k-NN k=20", "k-NN chosen k")
    assert [label for label, _ in shown.rows] == ["random:vit@1", "dino", "pixels:8"]
    assert {cell.digits for _, cells in shown.rows for cell in cells} == {1}
    assert [label for label, _ in choosing.shown(table, choosing.Choice(sort="model")).rows] == sorted(NAMES)
    with pytest.raises(SettingsError, match="wanted a column; got 'linear'; where: --sort"):
        choosing.shown(table, choosing.Choice(sort="linear"))


def test_results_are_filtered_by_patterns() -> None:
    results = [tuned("dino_a", 0.1, 0.1, 0.1), tuned("dino_b", 0.1, 0.1, 0.1, dataset="cifar10"), knn("other")]
    names = [str(r.checkpoint["name"]) for r in choosing.filtered(results, choosing.Choice(models=("dino*",)))]
    assert names == ["dino_a", "dino_b"]
    with pytest.raises(SettingsError, match=r"got 'dino'; where: --models; do: did you mean"):
        choosing.filtered(results, choosing.Choice(models=("dino",)))
    with pytest.raises(SettingsError, match="got none among 3"):
        choosing.filtered(results, choosing.Choice(models=("dino_a",), data=("cifar10",)))


def test_models_are_renamed(table: Table, tmp_path: Path) -> None:
    file = tmp_path / "names.toml"
    file.write_text('"random:vit@1" = "random"\n"nobody" = "x"\n')
    rename, unknown = choosing.renames(["pixels:8=Raw = pixels"], file, NAMES)
    assert unknown == ["nobody"]
    shown = choosing.shown(table, choosing.Choice(rename=rename))
    assert [label for label, _ in shown.rows] == ["Raw = pixels", "dino", "random"]
    for pairs, says in (
        (["dino"], "wanted OLD=NEW"),
        (["dnio=x"], "did you mean 'dino'"),
        (["dino=pixels:8"], "got 'pixels:8' for 'pixels:8' and 'dino'"),
    ):
        with pytest.raises(SettingsError, match=says):
            choosing.renames(pairs, None, NAMES)
    file.write_text("dino = 3\n")
    with pytest.raises(SettingsError, match="wanted a name; got 3"):
        choosing.renames([], file, NAMES)
    file.write_text("no toml")
    with pytest.raises(SettingsError, match="wanted a TOML file of names"):
        choosing.renames([], file, NAMES)
    file.write_text("x = " + "[" * 100_000)
    with pytest.raises(SettingsError, match="wanted a TOML file of names; got nested too deep"):
        choosing.renames([], file, NAMES)


def test_in_python_it_is_a_frame(tmp_path: Path) -> None:
    import evaltk

    right = np.arange(200) % 5 > 0
    worse = right.copy()
    worse[:80] = False
    write(tmp_path, [predicted("a", worse), predicted("b", right)])
    found = evaltk.load_results(tmp_path)
    frame = found.to_pandas()
    assert list(frame.index) == ["b", "a"] and list(frame.columns) == ["k-NN k=20", "px"]
    assert frame.loc["b", "k-NN k=20"] == found[1].scores[0].value == 0.8
    assert "**80.00** ± 0.40" in str(found) and "<strong>80.00</strong>" in found._repr_html_()
    (tmp_path / "a" / "none").mkdir(parents=True)
    with pytest.raises(evaltk.EvaltkError, match="wanted results; got none"):
        evaltk.load_results(tmp_path / "a" / "none")


def test_who_wins_is_told_with_p_and_a_tie_has_no_winner(tmp_path: Path) -> None:
    """p is McNemar's exact test of best against next, by scipy; Holm's correction over the tasks."""
    from scipy.stats import binomtest

    right = np.arange(400) % 5 > 0
    next_ = right.copy()
    next_[:60] = False
    found = write(tmp_path, [predicted("a", right), predicted("b", next_), (vos("a"), {}), (vos("b"), {})])
    results = [r for _, r in found]
    assert isinstance(SUMMARY, layouts.Over)
    knn_, video = winners.contests(SUMMARY, results, paired.beside(found, print))
    lost = int((right & ~next_).sum())
    assert knn_.p == pytest.approx(binomtest(0, lost).pvalue) and [name for name, _, _ in knn_.places] == ["a", "b"]
    assert video.tied and video.p is None
    told = "a is best at k-NN digits k=20, significantly ahead of the next (p ≤ 0.05, Holm)"
    assert winners.sentence([knn_, video]) == f"{told}; at 1 task the first are equal."
    near = replace(knn_, p=0.4)
    assert "a is best at k-NN digits k=20, not significantly ahead" in winners.sentence([near])
    both = winners.sentence([knn_, near, replace(near, p=None)])
    assert "a is best at 3 of 3 tasks, once of 2 tested significantly ahead" in both
    assert winners.sentence([]) == "" and winners.table([]) is None
    table = winners.table([knn_, video])
    assert table is not None and [cells[1].bold for _, cells in table.rows] == [True, False]


def test_one_file_with_other_pixel_statistics_is_another_model() -> None:
    def given(mean: float, top1: float) -> Result:
        result = tuned("net", top1, top1, top1)
        pixels = {"mean": [mean] * 3, "std": [0.5, 0.5, 0.5]}
        return replace(result, checkpoint={**result.checkpoint, **pixels})

    table = one([given(0.5, 0.7), given(0.0, 0.6)])
    assert table.titles() == ("k-NN chosen k", "k-NN k=20", "px")  # not a second column of the same
    assert [(label, cells[0].value) for label, cells in table.rows] == [
        ("net (mean 0.5 0.5 0.5, std 0.5 0.5 0.5)", 0.7),
        ("net (mean 0.0 0.0 0.0, std 0.5 0.5 0.5)", 0.6),
    ]
