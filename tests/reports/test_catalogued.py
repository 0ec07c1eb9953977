"""Published numbers of catalogued files: found by the catalogue's name of the bytes, each with its own protocol."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from result_files import BASE, LOOKS, knn, made

from evaltk.types import OriginProof, Result, Score
from reports import layouts
from reports.formats.render import render
from reports.published.match import METHODS
from reports.published.verdicts import NOT_VERIFIED
from reports.table import Cell
from reports.tables.beside_published import compare_with_published
from reports.tables.build import build_tables


def of_file(result: Result, catalogued: str, proof: OriginProof = OriginProof.SHA256) -> Result:
    """The result as of a file whose bytes the catalogue knows by that name."""
    return replace(result, checkpoint=dict(result.checkpoint) | {"catalogued": catalogued}, origin_proof=proof)


def linear(name: str, value: float = 0.7, *, family: str, **given: Any) -> Result:
    """A linear probe on ImageNet with its best epoch, of both features."""
    base = {"dataset": "imagenet", "split": "val", "n": 50_000, "interval": (value - 0.004, value + 0.004)}
    at = {"epoch": 100, "lr": 0.1}
    scores = [Score(metric=f"{f}_top1_best_epoch", value=value, at=at, **base) for f in "CD"]  # type: ignore[arg-type]
    return made(name, "linear", "imagenet", scores, family=family, **given)


def finetune(name: str, value: float = 0.83, *, family: str, **given: Any) -> Result:
    at = {"epoch": 100, "lr": 1e-3, "recipe": "imagenet"}
    interval = (value - 0.004, value + 0.004)
    score = Score(
        dataset="imagenet", split="val", metric="top1_best_epoch", value=value, n=50_000, at=at, interval=interval
    )
    return made(name, "finetune", "imagenet", [score], family=family, **given)


def cells(result: Result) -> dict[str, Cell]:
    (table,) = build_tables(layouts.load(result.protocol), [result])
    return dict(zip(table.columns, table.rows[0][1], strict=True))


NAMES = {
    "mae_vitb16": ("mae", 68.0, "MAE's linear probe: BatchNorm before it, LARS, batch 16,384"),
    "mocov3_vits16": ("mocov3", 73.2, "MoCo-v3's linear probe: SGD at one learning rate of 3"),
    "mocov2_resnet50_800ep": ("resnet", 71.1, "MoCo's linear probe: SGD at one learning rate of 30"),
    "mocov2_resnet50_200ep": ("resnet", 67.7, "MoCo's linear probe"),
    "swav_resnet50w2_400ep": ("resnet", 77.3, "SwAV's linear probe"),
    "dinov2_vitg14_reg4": ("dinov2", 87.1, "DINOv2's grid over blocks, pooling and learning rates"),
    "beitv2_base_patch16_pt1k": ("beit", 80.1, "one on each block's class token and mean of patches"),
    "esvit_swint7": ("swin", 78.0, "EsViT's linear probe"),
    "deit_vits16": ("deit", 79.9, "the file's own class head, trained with the net"),
    "ijepa_vith14_1k": ("ijepa", 79.3, "whose code is not public"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_number_of_another_protocol_stands_beside_but_is_not_compared(name: str) -> None:
    family, value, why = NAMES[name]
    found = cells(of_file(linear("net", family=family, arch="resnet50"), name))
    cell = found["Lin.[C] best epoch"]
    assert (cell.published, cell.verdict) == (value, "not comparable")
    assert cell.why.startswith("published by ") and why in cell.why
    assert (NOT_VERIFIED in cell.remark) == (family in ("ijepa", "beit"))
    assert found["Lin.[D] best epoch"].published is None  # once is enough


def test_fine_tuning_of_others_is_not_compared() -> None:
    cell = cells(of_file(finetune("net", family="mae", arch=BASE), "mae_vitb16"))["top-1, best epoch"]
    assert (cell.published, cell.verdict) == (83.664, "not comparable")
    assert cell.why == "published by MAE's own fine-tuning recipe, on the mean of patches"


@pytest.mark.parametrize("proof", [OriginProof.NONE, OriginProof.LAYOUT, OriginProof.USER])
def test_without_the_bytes_there_is_no_match(proof: OriginProof) -> None:
    """A file of that layout, read with --family, or of that name: which of the runs it is of, nothing tells."""
    unrelated = linear("mocov2_resnet50_800ep", family="resnet", arch="resnet50", branch="encoder_q")
    for result in (replace(unrelated, origin_proof=proof), of_file(unrelated, "mocov2_resnet50_800ep", proof)):
        assert cells(result)["Lin.[C] best epoch"].published is None
    assert {"resnet", "mae", "mocov3", "swin", "beit", "deit", "dinov2"}.isdisjoint(METHODS)


def test_files_without_published_numbers_take_none_of_their_family() -> None:
    assert cells(of_file(knn(), "dino_vits16"))["best k"].published == 74.44
    assert cells(of_file(knn(), "dino_vits16_landmarks"))["best k"].published is None
    assert cells(of_file(knn(family="ibot", arch=BASE), "ibot_vitb16"))["best k"].published == 77.1
    assert cells(of_file(knn(family="ibot", arch=BASE), "ibot_vitb16_rand"))["best k"].published == 77.3
    assert cells(of_file(knn(branch="student"), "dino_vits16_full"))["best k"].published is None


def test_knn_is_compared_by_the_position_rule_of_its_source() -> None:
    def best(name: str, family: str, value: float, position: str) -> Cell:
        looks = replace(LOOKS, position=position)  # type: ignore[arg-type]
        return cells(of_file(knn("net", value, family=family, preprocessing=looks), name))["best k"]

    assert best("dinov2_vits14", "dinov2", 0.79, "dino").verdict == "reproduced"
    assert best("dinov2_vits14", "dinov2", 0.79, "size_aa").why == "position size_aa for dino"
    assert best("dinov2_vits14_reg4", "dinov2", 0.791, "size_aa").verdict == "reproduced"
    assert best("dinov2_vits14_reg4", "dinov2", 0.791, "dino").why == "position dino for size_aa"
    assert best("esvit_swint7", "swin", 0.757, "dino").verdict == "reproduced"
    assert best("esvit_swint7", "swin", 0.70, "size").verdict == "off"


def test_the_page_and_the_table_give_the_reason_and_the_source() -> None:
    result = of_file(linear("mae_vitb16", 0.65, family="mae", arch=BASE), "mae_vitb16")
    compared = compare_with_published([result, linear("other", family="mae", arch=BASE)])
    assert compared.counts["not comparable"] == 1 and compared.counts["no published number"] == 1
    assert compared.table is not None
    (row,) = compared.table.rows
    assert row[1][4].note == "github.com/facebookresearch/mae@efb2a80 FINETUNE.md:168"
    (table,) = build_tables(layouts.load("linear"), [result])
    for form in ("md", "terminal", "html"):
        text = render(table, form)
        assert "68.0" in text and "BatchNorm before it, LARS" in text
