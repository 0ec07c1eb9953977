"""What a file does not tell about its net, and who says it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from families_loaded import CLASS_HEAD, STATS, load, refused
from layouts import (
    FLAT,
    WIDE,
    Weights,
    branch,
    dino_full,
    gap,
    images,
    save,
    under,
    vit,
)

import evaltk
from evaltk import cli, files
from evaltk.checkpoints import catalog
from evaltk.errors import CheckpointError, SettingsError
from evaltk.types import Checkpoint

SMALL = dataclasses.replace(WIDE, embed_dim=384, num_heads=6)


def test_heads_of_attention(tmp_path: Path) -> None:
    line = refused(branch(), tmp_path, "24 wide, which is no standard width", "pass --num-heads N,", num_heads=None)
    assert "wanted the number of attention heads, which tensors do not contain" in line
    for wrong in (5, 7, 48):
        refused(vit(), tmp_path, "divides the width 24", "--num-heads", num_heads=wrong)
    assert load(vit(), tmp_path, num_heads=6).digest != load(vit(), tmp_path).digest
    standard = load(vit(WIDE), tmp_path, num_heads=None, family="dino")
    assert standard.arch.num_heads == 3
    assert any("heads are not stored: 3" in note for note in standard.notes)
    assert load(vit(WIDE), tmp_path, num_heads=6).arch.num_heads == 6
    refused(vit(WIDE), tmp_path, "pass --num-heads N,", num_heads=None)  # a published width proves nothing


def test_the_hint_of_the_file(tmp_path: Path) -> None:
    def full(**args: Any) -> dict[str, Any]:
        return {"teacher": under("backbone.", vit(WIDE)), "args": argparse.Namespace(**args)}

    agrees = load(full(arch="vit_tiny", patch_size=8), tmp_path, num_heads=None)
    assert (agrees.arch.num_heads, agrees.notes) == (3, ())
    as_dict = load(full() | {"args": {"arch": "vit_tiny"}}, tmp_path, num_heads=None)
    assert as_dict.notes == ()
    other_width = load(full(arch="vit_small"), tmp_path, num_heads=None)
    assert "calls itself vit_small (384 wide) but its tensors are 192 wide" in other_width.notes[0]
    other_patch = load(full(arch="vit_tiny", patch_size=16), tmp_path, num_heads=None)
    assert other_patch.notes == ("the file says patch 16, its tensors 8: hint set aside",)
    overruled = load(full(arch="vit_tiny"), tmp_path, num_heads=6)
    assert overruled.arch.num_heads == 6
    assert "--num-heads says 6" in overruled.notes[0]
    for odd in (["vit_tiny"], 5, None, torch.ones(2)):
        assert load(full(arch=odd, patch_size=odd), tmp_path, num_heads=None).arch.num_heads == 3
    refused(dino_full(args=argparse.Namespace(arch="vit_small")), tmp_path, "--num-heads", "384 wide", num_heads=None)


def test_a_flat_file_asks_for_all_it_does_not_tell_at_once(tmp_path: Path) -> None:
    """One message, with a command to paste; what was given stands in it, and examples of the rest."""
    folder = tmp_path / "two words"
    folder.mkdir()
    path = save(vit(SMALL), folder / "net.pth")
    with pytest.raises(CheckpointError) as caught:
        evaltk.load_checkpoint(path)
    wanted = "the number of attention heads, the epsilon of the LayerNorms, the pixel mean and the pixel standard"
    assert caught.value.wanted.startswith(wanted)
    assert "MoCo-v3's have 12" in caught.value.do and "--family dino" in caught.value.do
    command = f"evaltk inspect '{path}' --num-heads 6 --norm-eps 1e-06 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225"
    assert command in caught.value.do
    argv = shlex.split(command)[1:]
    assert cli.main(argv) == 0
    assert cli.main([*argv[:3], "5", *argv[4:]]) == 2  # heads that do not divide the width
    with pytest.raises(CheckpointError, match=r"wanted the pixel mean and .* --norm-eps 1e-05 --num-heads 12"):
        evaltk.load_checkpoint(path, num_heads=12, norm_eps=1e-5)
    right, wrong = (evaltk.load_checkpoint(path, **FLAT | {"num_heads": n}) for n in (12, 6))
    x = images(1, 3, 16, 16)
    assert gap(*(evaltk.build_backbone(c).tokens(x)[0].cls for c in (right, wrong))) > 1e-3


def test_a_flat_file_of_a_family_the_user_names(tmp_path: Path) -> None:
    for family in ("dino", "ibot"):
        for tree in (vit(SMALL), {"state_dict": vit(SMALL)}):
            found = evaltk.load_checkpoint(save(tree, tmp_path / "net.pth"), family=family)
            assert (found.family, found.arch.num_heads, found.arch.norm_eps, found.mean[0]) == (family, 6, 1e-6, 0.485)


def test_a_timm_file_needs_what_nothing_fixes(tmp_path: Path) -> None:
    tree = vit() | CLASS_HEAD
    refused(tree, tmp_path, "pass --norm-eps EPS,", norm_eps=None)
    refused(tree, tmp_path, "pass --mean R G B --std R G B,", norm_eps=1e-5, mean=None, std=None)
    refused(tree, tmp_path, "pass --std R G B,", norm_eps=1e-5, mean=(0.5, 0.5, 0.5), std=None)
    found = load(tree, tmp_path, norm_eps=1e-5, **STATS)
    assert (found.arch.norm_eps, found.mean, found.std) == (1e-5, STATS["mean"], STATS["std"])
    assert found.dropped == {"head.weight": "class head", "head.bias": "class head"}


def test_what_the_user_says_completes_a_family(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "plain.pth")
    plain = evaltk.load_checkpoint(path, num_heads=3, family="dino")
    assert (plain.arch.norm_eps, plain.mean[0], plain.std[0]) == (1e-6, 0.485, 0.229)
    said = load(vit(), tmp_path, norm_eps=1e-5, family="dino", **STATS)
    assert (said.arch.norm_eps, said.mean, said.std) == (1e-5, STATS["mean"], STATS["std"])
    x = images(2, 3, 32, 32)
    a, b = (evaltk.build_backbone(c).tokens(x)[0].cls for c in (plain, said))
    assert 1e-7 < gap(a, b) < 1e-3


@pytest.mark.parametrize(
    ("said", "flag"),
    [
        ({"num_heads": 0}, "--num-heads"),
        ({"num_heads": -3}, "--num-heads"),
        ({"norm_eps": 0.0}, "--norm-eps"),
        ({"norm_eps": -1e-6}, "--norm-eps"),
        ({"norm_eps": float("nan")}, "--norm-eps"),
        ({"norm_eps": float("inf")}, "--norm-eps"),
        ({"std": (0.0, 0.2, 0.2)}, "--std"),
        ({"std": (0.2, -0.2, 0.2)}, "--std"),
        ({"std": (58.4, 57.1, 57.4)}, "--std"),
        ({"std": (float("nan"), 0.2, 0.2)}, "--std"),
        ({"std": (0.2, 0.2)}, "--std"),
        ({"mean": (123.7, 116.3, 103.5)}, "--mean"),
        ({"mean": (-0.1, 0.5, 0.5)}, "--mean"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "--mean"),
    ],
)
def test_flags_that_no_net_has(said: dict[str, Any], flag: str, tmp_path: Path) -> None:
    refused(vit(), tmp_path, flag, kind=SettingsError, **said)
    with pytest.raises(SettingsError, match=flag):
        evaltk.load_checkpoint("pixels:8", **said)


def test_a_catalogue_name_that_is_mistyped_or_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="did you mean 'dino_vits16'"):
        evaltk.load_checkpoint("dino_vits61")
    with pytest.raises(CheckpointError, match="evaltk fetch dino_vits16"):
        evaltk.load_checkpoint("dino_vits16")


def test_a_fetched_file_is_what_the_catalogue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path))
    entry = dataclasses.replace(catalog.find("dino_vits16"), arch="vit_patch8_dim192_depth1_heads3_img16")
    monkeypatch.setattr(catalog, "load", lambda: {"dino_vits16": entry})
    path = catalog.local_path(entry)
    path.parent.mkdir(parents=True)

    def fetched(weights: Weights, **said: Any) -> Checkpoint:
        path.unlink(missing_ok=True)
        save(weights, path)
        (tmp_path / "pins.json").write_text(json.dumps({"dino_vits16": {"sha256": files.sha256(path)}}))
        return evaltk.load_checkpoint("dino_vits16", **said)

    found = fetched(vit(WIDE))
    assert found.family == "dino"  # by the catalogue: nothing in the file says so
    assert (found.name, found.arch.num_heads, found.origin) == ("dino_vits16", 3, str(path))
    with pytest.raises(CheckpointError, match=r"wanted vit_patch8_dim192.*, as the catalogue says of dino_vits16"):
        fetched(vit(), num_heads=3)
    for said, wanted in (
        ({"num_heads": 6}, "wanted 3, as the catalogue states of dino_vits16; got 6; where: --num-heads"),
        ({"norm_eps": 1e-5}, "wanted 1e-06, as the catalogue states of dino_vits16; got 1e-05; where: --norm-eps"),
        ({"mean": (0.5, 0.5, 0.5)}, "wanted 0.485 0.456 0.406, as .* got 0.5 0.5 0.5; where: --mean"),
    ):
        with pytest.raises(SettingsError, match=wanted):
            fetched(vit(WIDE), **said)
