"""Tokens and head outputs equal the original code's on its own checkpoints (tests/golden/NETS.md)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import FLAT, GOLDEN, gap, save

import evaltk
from evaltk.models.backbone import Backbone, Head
from evaltk.types import Recipe, Tokens

NETS = np.load(GOLDEN / "nets.npz")
TOLERANCE = 1e-5
FILES = {
    "dino": GOLDEN / "dino_p16_full_checkpoint.pth",
    "ibot": GOLDEN / "ibot_checkpoint.pth",
    "msn": GOLDEN / "msn_checkpoint.pth.tar",
}


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(NETS[name])


@cache
def built(name: str) -> tuple[Backbone, Head]:
    checkpoint = evaltk.load_checkpoint(FILES[name], num_heads=3)
    assert checkpoint.family == name
    return evaltk.build_backbone(checkpoint), evaltk.build_head(checkpoint)


def whole(tokens: Tokens) -> torch.Tensor:
    return torch.cat([tokens.cls[:, None], tokens.patches], dim=1)


def interleaved(tokens: Tokens) -> torch.Tensor:
    return torch.stack([tokens.cls, tokens.patches.mean(dim=1)], dim=-1).flatten(1)


@pytest.mark.parametrize(("size", "grid", "step"), [("224", (14, 14), 7), ("96", (6, 6), 1), ("wide", (7, 12), 1)])
def test_dino(size: str, grid: tuple[int, int], step: int) -> None:
    backbone, head = built("dino")
    images = golden(f"dino_{size}_input")
    last = backbone.tokens(images)[0]
    assert last.grid == grid
    assert gap(whole(last)[:, ::step], golden(f"dino_{size}_lasttokens")) < TOLERANCE
    assert gap(last.cls, golden(f"dino_{size}_cls")) < TOLERANCE
    assert gap(interleaved(last), golden(f"dino_{size}_avgpoolfeat")) < TOLERANCE
    four = torch.cat([t.cls for t in backbone.tokens(images, last=4)], dim=1)
    assert gap(four, golden(f"dino_{size}_last4cls")) < TOLERANCE
    assert gap(head.logits(head.embed(last.cls)), golden(f"dino_{size}_head")) < TOLERANCE


def test_ibot_without_a_mask() -> None:
    backbone, head = built("ibot")
    tokens = backbone.tokens(golden("ibot_msn_input"))[0]
    assert gap(whole(tokens), golden("ibot_tokens")) < TOLERANCE
    assert gap(head.logits(head.embed(tokens.cls)), golden("ibot_head_cls")) < TOLERANCE
    patches = head.logits(head.embed(tokens.patches), patch=True)
    assert gap(patches[:, ::9], golden("ibot_head_patch")) < TOLERANCE


def test_ibot_with_a_mask() -> None:
    tokens = built("ibot")[0].tokens(golden("ibot_msn_input"), mask=golden("ibot_mask"))[0]
    assert gap(whole(tokens), golden("ibot_tokens_masked")) < TOLERANCE


def test_msn() -> None:
    backbone, head = built("msn")
    images = golden("ibot_msn_input")
    tokens = backbone.tokens(images)[0]
    assert gap(tokens.cls, golden("msn_cls")) < TOLERANCE
    assert gap(torch.cat([tokens.cls, tokens.patches.mean(dim=1)], dim=1), golden("msn_cls_avgpool")) < TOLERANCE
    assert gap(backbone.tokens(images, norm=False)[0].cls, golden("msn_last_block_cls_prenorm")) < TOLERANCE
    four = torch.cat([t.cls for t in backbone.tokens(images, last=4)], dim=1)
    assert gap(four, golden("msn_last4cls")) < TOLERANCE
    assert gap(head.project(tokens.cls), golden("msn_projection")) < TOLERANCE
    torch.testing.assert_close(head.prototypes.norm(dim=1), torch.ones(24))


def test_features_of_several_recipes_in_one_pass() -> None:
    backbone, _ = built("dino")
    images = golden("dino_96_input")
    recipes = (
        Recipe(),
        Recipe(last=4),
        Recipe(norm=False),
        Recipe(tokens="cls+mean"),
        Recipe(tokens="mean", norm=False),
    )
    cls, four, raw, both, mean = backbone.features(images, recipes)
    assert gap(cls, golden("dino_96_cls")) < TOLERANCE
    assert gap(four, golden("dino_96_last4cls")) < TOLERANCE
    prenorm = backbone.tokens(images, norm=False)[0]
    assert gap(raw, prenorm.cls) < TOLERANCE
    assert gap(mean, prenorm.patches.mean(dim=1)) < TOLERANCE
    assert gap(both, golden("dino_96_avgpoolfeat").reshape(1, 48, 2).transpose(1, 2).flatten(1)) < TOLERANCE


def test_a_backbone_only_file_is_the_same_net(tmp_path: Path) -> None:
    teacher = torch.load(FILES["dino"], weights_only=False)["teacher"]
    flat = {k.removeprefix("backbone."): t for k, t in teacher.items() if k.startswith("backbone.")}
    alone = evaltk.load_checkpoint(save(flat, tmp_path / "backbone.pth"), **FLAT)
    full = evaltk.load_checkpoint(FILES["dino"], num_heads=3)
    assert (alone.family, alone.branch, alone.head) == ("flat", "backbone", None)
    assert len(alone.weights) == 66
    assert alone.digest == full.digest
    assert alone.sha256 != full.sha256


def test_a_teacher_only_file_of_ibot_is_the_same_net(tmp_path: Path) -> None:
    teacher = torch.load(FILES["ibot"], weights_only=False)["teacher"]
    stripped = {k.removeprefix("module."): t for k, t in teacher.items()}
    alone = evaltk.load_checkpoint(save({"state_dict": stripped}, tmp_path / "checkpoint_teacher.pth"), num_heads=3)
    assert (alone.family, alone.branch) == ("ibot", "backbone")
    assert alone.digest == evaltk.load_checkpoint(FILES["ibot"], num_heads=3).digest
    images = golden("ibot_msn_input")
    tokens = evaltk.build_backbone(alone).tokens(images, mask=golden("ibot_mask"))[0]
    assert gap(whole(tokens), golden("ibot_tokens_masked")) < TOLERANCE
    head = evaltk.build_head(alone)
    plain = evaltk.build_backbone(alone).tokens(images)[0]
    assert gap(head.logits(head.embed(plain.cls)), golden("ibot_head_cls")) < TOLERANCE


def test_bf16_is_near_and_comes_back_as_float32() -> None:
    checkpoint = evaltk.load_checkpoint(FILES["dino"], num_heads=3)
    tokens = evaltk.build_backbone(checkpoint, precision="bf16").tokens(golden("dino_96_input"))[0]
    assert tokens.cls.dtype == tokens.patches.dtype == torch.float32
    assert 1e-5 < gap(tokens.cls, golden("dino_96_cls")) < 0.1
