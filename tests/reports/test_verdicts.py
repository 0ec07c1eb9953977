"""Verdicts: what counts as the published number again, and what is not comparable and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from result_files import BASE, EVAL, LOOKS, knn, retrieval, vos

from evaltk.types import Deviation, DeviationKind, PixelView, Result
from reports import layouts
from reports.published import verdicts
from reports.published.load import load_published, select_published
from reports.table import Cell
from reports.tables.build import build_tables

KNN, RETRIEVAL, VOS = (layouts.load(name) for name in ("knn", "retrieval", "vos"))


def best(result: Result) -> Cell:
    """The cell of the best k."""
    (table,) = build_tables(KNN, [result])
    return dict(zip(table.columns, table.rows[0][1], strict=True))["best k"]


@pytest.mark.parametrize(
    ("value", "interval", "verdict", "why"),
    [
        (0.7444, (0.740, 0.748), "reproduced", "+0.00; tolerance 0.15 and interval"),
        (0.7459, (0.742, 0.750), "reproduced", "+0.15; tolerance 0.15 and interval"),  # the edge counts
        (0.7429, (0.739, 0.747), "reproduced", "-0.15; tolerance 0.15 and interval"),
        (0.7460, (0.742, 0.750), "reproduced", "+0.16; interval only"),
        (0.7455, (0.7450, 0.7460), "reproduced", "+0.11; tolerance 0.15 only"),
        (0.7490, (0.745, 0.753), "off", "+0.46"),
        (0.6900, (0.686, 0.694), "off", "-5.44"),
    ],
)
def test_tolerance_and_interval(value: float, interval: tuple[float, float], verdict: str, why: str) -> None:
    found = best(knn(value=value, interval=interval))
    assert (found.verdict, found.why, found.published) == (verdict, why, 74.44)


def test_both_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {**verdicts.rules(), "accept": "both"}
    monkeypatch.setattr(verdicts, "rules", lambda: both)
    assert best(knn(value=0.7444)).verdict == "reproduced"
    assert best(knn(value=0.7460)).verdict == "off"
    assert best(knn(value=0.7455, interval=(0.7450, 0.7460))).verdict == "off"


def test_without_an_interval_the_tolerance_decides() -> None:
    row = select_published(table=2, arch="ViT-S/16", method="DINO", variant="kNN")[0]
    assert verdicts.judge(Cell(value=0.745, published=74.44), row) == ("reproduced", "+0.06; tolerance 0.15")
    assert verdicts.judge(Cell(value=0.746, published=74.44), row) == ("off", "+0.16")
    with pytest.raises(ValueError, match="both"):
        verdicts.judge(Cell(value=0.746), row)


BICUBIC = "bicubic (Pillow)"


def other_view(**fields: Any) -> dict[str, Any]:
    return looking(views={"eval": replace(EVAL, **fields)})


def looking(**fields: Any) -> dict[str, Any]:
    return {"preprocessing": replace(LOOKS, **fields)}


def deviating(kind: DeviationKind, text: str = "a text") -> dict[str, Any]:
    return {"deviations": (Deviation(kind=kind, text=text),)}


SUBSET = "val has 1,000 images, ImageNet-1K 50,000"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"n": 49_998}, "n = 49,998 for 50,000"),
        (deviating(DeviationKind.SPLIT_SIZE, SUBSET), SUBSET),
        (deviating(DeviationKind.SMOKE_TEST, "10 images"), "10 images"),
        (looking(precision="bf16"), "precision bf16 for fp32"),
        (looking(precision=None), "precision not recorded"),
        (looking(position="timm"), "position timm for dino"),
        ({"settings": {"k": [5, 20]}}, "k = 5, 20 without 10, 100, 200"),
        ({"temperature": 0.1}, "temperature 0.1 for 0.07"),
        (other_view(resize=248), f"resize 248 {BICUBIC} for resize 256 {BICUBIC}"),
        (other_view(interpolation="bilinear"), f"resize 256 bilinear (Pillow) for resize 256 {BICUBIC}"),
        (other_view(crop=192), "centre crop 192 for centre crop 224"),
        (looking(views={}), "preprocessing not recorded"),
        (looking(views={"eval": PixelView(text=EVAL.text)}), "preprocessing not recorded"),
        ({"epoch": 100}, "100 epochs for 800"),
        (looking(precision="bf16", position="size"), "precision bf16 for fp32; position size for dino"),
    ],
)  # fmt: skip
def test_not_comparable_and_why(given: dict[str, Any], why: str) -> None:
    found = best(knn(**given))
    assert (found.verdict, found.why, found.published) == ("not comparable", why, 74.44)


def test_full_checkpoints_that_state_their_epochs() -> None:
    assert best(knn(epoch=800)).verdict == "reproduced"
    assert best(knn(value=0.7611, arch=BASE, epoch=400)).verdict == "reproduced"
    assert best(knn(value=0.7611, arch=BASE, epoch=800)).why == "800 epochs for 400"


BLURRED = "for those with blurred faces (an archive beside them would tell)"
SPELLED_OUT = {"drop_last": True, "std": [0.228, 0.224, 0.225]}


def first(layout: Any, result: Result) -> Cell:
    (table,) = build_tables(layout, [result])
    return table.rows[0][1][0]


@pytest.mark.parametrize(
    ("given", "verdict", "why"),
    [
        ({}, "reproduced", "-0.10; interval"),
        ({"values": (0.50, 0.3)}, "off", "-13.10"),
        ({"at": {"imsize": 224}}, "not comparable", "imsize 224 for 512"),
        ({"at": {"scales": "1"}}, "not comparable", "scales 1 for 1 0.7071 0.5"),
        ({"at": {"crop": True}}, "not comparable", "crop on for off"),
        ({"settings": {"pooling": "gem"}}, "not comparable", "pooling gem for cls"),
        ({"settings": {"whiten": "roxford5k=x"}}, "not comparable", "whiten roxford5k=x for the default"),
        (deviating(DeviationKind.ORIGINAL_IMAGES), "not comparable", "original images for those with blurred faces"),
        (deviating(DeviationKind.UNKNOWN_IMAGES), "not comparable", f"images of unknown version {BLURRED}"),
        (deviating(DeviationKind.QUERY_BOXES), "reproduced", "-0.10; interval"),
        ({"notes": ("images: original, 9 bytes",)}, "reproduced", "-0.10; interval"),  # no rule goes by a text
    ],
)  # fmt: skip
def test_retrieval_goes_by_its_interval(given: dict[str, Any], verdict: str, why: str) -> None:
    found = first(RETRIEVAL, retrieval(**given))
    assert (found.verdict, found.why) == (verdict, why)


@pytest.mark.parametrize(
    ("given", "verdict", "why"),
    [
        ({}, "reproduced", "+0.20; tolerance 0.4 and interval"),
        ({"settings": SPELLED_OUT}, "reproduced", "+0.20; tolerance 0.4 and interval"),
        ({"settings": {"preset": "plain"}}, "not comparable", "preset plain for dino"),
        ({"settings": {"topk": 7}}, "not comparable", "topk 7 for 5"),
        ({"settings": {"drop_last": False}}, "not comparable", "drop_last off for the default"),
    ],
)  # fmt: skip
def test_video_segmentation(given: dict[str, Any], verdict: str, why: str) -> None:
    found = first(VOS, vos(**given))
    assert (found.verdict, found.why) == (verdict, why)


def test_every_task_of_the_papers_has_a_rule_and_every_rule_a_task() -> None:
    tasks = {row.task for row in load_published()}
    assert set(verdicts.rules()["tasks"]) == tasks
    known = {
        "tolerance",
        "tolerances",
        "n",
        "views",
        "settings",
        "unset",
        "contains",
        "at",
        "at_data",
        "forbidden",
    }
    assert all(rule.keys() <= known for rule in verdicts.rules()["tasks"].values())
    assert all({*rule.get("forbidden", ())} <= {*DeviationKind} for rule in verdicts.rules()["tasks"].values())


@pytest.mark.parametrize(
    ("task", "variant", "dataset", "tolerance"),
    [
        ("imagenet_knn", "kNN", "ImageNet-1K", 0.15),
        ("imagenet_linear", "Lin.[D]", "ImageNet-1K", 0.2),
        ("imagenet_fewshot", "2 imgs/cls", "ImageNet-1K", 0.3),
        ("imagenet_fewshot", "1% imgs", "ImageNet-1K", 0.2),
        ("transfer_linear", "linear, frozen", "Pets", 0.7),
        ("transfer_linear", "linear, frozen", "Average", 0.4),
        ("vos", "semi-supervised, frozen", "DAVIS-2017 val", 0.4),
        ("finetune", "end-to-end fine-tuning", "CIFAR10", 0.3),
    ],
)
def test_tolerances(task: str, variant: str, dataset: str, tolerance: float) -> None:
    row = select_published(task=task, variant=variant, dataset=dataset, arch="ViT-S/16", method="DINO")[0]
    for off, verdict in ((tolerance, "reproduced"), (tolerance + 0.01, "off")):
        cell = Cell(value=(row.value - off) / (100 if row.unit == "%" else 1), published=row.value)
        assert verdicts.judge(cell, row)[0] == verdict
