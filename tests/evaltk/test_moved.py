"""Results in bfloat16 say how far the features moved, measured on a sample against float32."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from evaltk import datasets
from evaltk.checkpoints.load import load_checkpoint
from evaltk.data import limits, transforms
from evaltk.models.backbone import build_backbone
from evaltk.running import moved, runner
from evaltk.running.runner import Plan
from evaltk.types import Recipe, Result
from protocols import knn, linear

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
TOLD = re.compile(
    r"bf16 moved the features of (\d+) images of (.+?) by (\S+) % \(median, at most (\S+) %; cosine with fp32 at least "
    r"(\S+)\); the nearest neighbour among them is the same for (\d+)"
)


def test_the_measure_by_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(9, 5, generator=generator)
    x = y + 0.3 * torch.randn(9, 5, generator=generator)
    got = moved.measure(x, y)

    def nearest(rows: list[list[float]], i: int) -> int:
        def cosine(j: int) -> float:
            return sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / math.dist(rows[j], [0] * 5)

        return max((j for j in range(9) if j != i), key=cosine)

    a, b = x.tolist(), y.tolist()
    errors = sorted(math.dist(p, q) / math.dist(q, [0] * 5) for p, q in zip(a, b, strict=True))
    assert got.error == pytest.approx((errors[4], errors[8]), abs=1e-12) and got.num == 9
    assert got.same == sum(nearest(a, i) == nearest(b, i) for i in range(9)) < 9
    assert moved.measure(y, y) == moved.Moved(error=(0.0, 0.0), cosine=pytest.approx(1.0), same=9, num=9)


def ran(tmp_path: Path, precision: str) -> list[Result]:
    found: list[Result] = []
    plan = Plan(
        checkpoints=(NET,), data=("digits",), out=tmp_path / "runs", cache=tmp_path / "cache", limit=100,
        precision=precision, protocols={"knn": knn.Settings(k=(5,), choose=0),
                                        "linear": linear.Settings(fast=True, epochs=1, lr=(0.1,))},
    )  # type: ignore[arg-type]  # fmt: skip
    runner.run(plan, report=lambda job, result, skipped: found.append(result))
    return found


def test_each_result_says_what_moved(tmp_path: Path) -> None:
    plain = ran(tmp_path, "fp32")
    assert not [note for result in plain for note in result.notes if "bf16" in note]
    for result in ran(tmp_path, "bf16"):
        told = [found for note in result.notes if (found := TOLD.fullmatch(note))]
        assert {found[2].partition(" ")[0] for found in told} == {"train", "test"} and {found[1] for found in told} == {
            "64"
        }
        assert all(0 < float(found[3]) <= float(found[4]) < 5 and 0.99 < float(found[5]) < 1 for found in told)
    (note,) = [note for note in ran(tmp_path, "bf16")[0].notes if " of test by" in note]
    told = TOLD.fullmatch(note)
    split = limits.limited(datasets.load("digits"), 100, 0).test
    look = transforms.view("eval", 16, load_checkpoint(NET).mean, load_checkpoint(NET).std)
    pixels = torch.stack([torch.from_numpy(look.pixels(split.open(i * 100 // 64)).copy()) for i in range(64)])
    nets = [build_backbone(load_checkpoint(NET), precision=precision) for precision in ("bf16", "fp32")]  # type: ignore[arg-type]
    x, y = (net.features(look.normalise(pixels), (Recipe(),))[0] for net in nets)
    errors = (x - y).norm(dim=1) / y.norm(dim=1)
    assert told is not None and float(told[4]) == pytest.approx(100 * float(errors.max()), rel=0.05)
