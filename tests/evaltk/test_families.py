"""Every layout that weight files come in: what is used, what is dropped by name, and what is an error."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from families_loaded import CLASS_HEAD, STATS, load, refused
from layouts import (
    FLAT,
    Weights,
    branch,
    dino_full,
    ibot_full,
    msn_full,
    msn_projector,
    save,
    under,
    vit,
)

import evaltk
from evaltk.checkpoints import families, rawfile
from evaltk.errors import CheckpointError, SettingsError


def without(items: Weights, *keys: str) -> Weights:
    return {k: t for k, t in items.items() if k not in keys}


IBOT_FLAT = vit() | {"masked_embed": torch.ones(1, 24)}


LAYOUTS: dict[str, tuple[Any, str]] = {
    "flat": (vit(), "flat"),
    "flat under module": (under("module.", vit()), "flat"),
    "flat under module.backbone": (under("module.backbone.", vit()), "flat"),
    "dino teacher saved alone": (branch(), "dino"),
    "dino full": (dino_full(), "dino"),
    "dino full, teacher under DDP": (dino_full(teacher=branch("module.")), "dino"),
    "dino full of an older script": ({"teacher": branch()}, "dino"),
    "flat in the entry state_dict": ({"state_dict": vit()}, "flat"),
    "ibot teacher only, keys under backbone, with head": ({"state_dict": ibot_full()["teacher"]}, "ibot"),
    "ibot for fine-tuning, flat": (IBOT_FLAT, "ibot"),
    "ibot 22k student only": ({"state_dict": under("module.backbone.", IBOT_FLAT)}, "ibot"),
    "ibot full": (ibot_full(), "ibot"),
    "ibot full without the loss": (without(ibot_full(), "ibot_loss"), "ibot"),
    "msn": (msn_full(), "msn"),
    "msn without module": (msn_full(target_encoder=vit() | under("fc.", msn_projector())), "msn"),
    "msn under module.encoder": (msn_full(target_encoder=under("module.encoder.", vit())), "msn"),
    "timm flat": (vit() | CLASS_HEAD, "timm"),
    "timm training": ({"state_dict": vit() | CLASS_HEAD, "epoch": 3, "arch": "x", "optimizer": {}}, "timm"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_net(name: str, tmp_path: Path) -> None:
    tree, family = LAYOUTS[name]
    found = load(tree, tmp_path)
    assert found.family == family
    assert without(dict(found.weights), "mask_token").keys() == vit().keys()
    assert all(torch.equal(found.weights[k], t) for k, t in vit().items())
    assert found.digest == load(vit(), tmp_path).digest
    assert (found.arch.depth, found.arch.patch_size, found.arch.img_size, found.arch.mlp_ratio) == (2, 8, 32, 2.0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_exactly_one_family_claims_it(name: str, tmp_path: Path) -> None:
    tree, family = LAYOUTS[name]
    raw = rawfile.read(save(tree, tmp_path / "net.pth"))
    claims = [n for n, f in families.load().items() if f.claims is not None and f.claims(raw)]
    assert claims == [family]


def test_branches(tmp_path: Path) -> None:
    assert load(dino_full(), tmp_path).branch == "teacher"
    student = load(dino_full(), tmp_path, branch="student")
    assert student.branch == "student"
    assert torch.equal(student.weights["norm.bias"], vit(seed=5)["norm.bias"])
    assert student.dropped["teacher"] == "the other branch"
    assert load(msn_full(), tmp_path).branch == "target_encoder"
    assert torch.equal(load(msn_full(), tmp_path, branch="encoder").weights["norm.bias"], vit(seed=5)["norm.bias"])
    ibot = load(ibot_full(), tmp_path, branch="student")
    assert "mask_token" in ibot.weights
    assert "mask_token" not in load(ibot_full(), tmp_path).weights
    refused(dino_full(), tmp_path, "teacher, student", "--branch", branch="encoder")
    refused({"teacher": branch()}, tmp_path, "a branch of this file (teacher)", branch="student")
    # A file of one net does not tell which it is: what is asked for cannot be had from it.
    for tree in (vit(), {"state_dict": vit()}, IBOT_FLAT):
        refused(tree, tmp_path, "holds one net only", "leave --branch out", branch="student")


def test_every_entry_is_named(tmp_path: Path) -> None:
    found = load(dino_full(fp16_scaler={"scale": 2.0}), tmp_path)
    assert set(found.dropped) == {"student", "optimizer", "epoch", "args", "dino_loss", "fp16_scaler"}
    assert found.epoch == 7
    assert set(load(msn_full(), tmp_path).dropped) == {
        "encoder", "opt", "epoch", "loss", "batch_size", "world_size", "lr", "temperature",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        (dino_full(ema={"w": torch.ones(1)}), "ema.w"),
        (dino_full(teacher=branch() | {"extra": torch.ones(3)}), "extra (3,)"),
        (dino_full(teacher=branch() | {"deep": {"w": torch.ones(3)}}), "teacher.deep.w"),  # type: ignore[operator]
        (dino_full(teacher=branch() | {"head.predictor.weight": torch.ones(3)}), "head.predictor.weight"),
        (vit() | {"nested": {"w": torch.ones(2)}}, "nested.w"),
        (vit() | {"norm": {"weight": torch.ones(24)}}, "norm.weight"),
        (vit() | {"blocks.9.extra": torch.ones(2)}, "blocks.9.extra"),
        ({"state_dict": vit(), "ema": {"w": torch.ones(2)}}, "ema.w"),
        ({"state_dict": vit() | {"deep": [torch.ones(2)]}}, "state_dict.deep.0"),
        (msn_full(prototypes={"w": torch.ones(2)}), "prototypes.w"),
        (msn_full(target_encoder=vit() | {"fc.weight": torch.ones(3, 3)}), "fc.weight"),
        (msn_full(momentum=torch.ones(2)), "momentum"),
    ],
)
def test_a_tensor_that_no_rule_names_is_an_error(tree: object, key: str, tmp_path: Path) -> None:
    refused(tree, tmp_path, "unexpected", key)


def test_missing_keys_are_listed_with_near_names(tmp_path: Path) -> None:
    weights = vit()
    weights["blocks.1.norm2.wieght"] = weights.pop("blocks.1.norm2.weight")
    line = refused(weights, tmp_path, "missing blocks.1.norm2.weight (24,) (nearest there: blocks.1.norm2.wieght)")
    assert "unexpected blocks.1.norm2.wieght (24,)" in line
    gone = [k for k in vit() if k.startswith("blocks.1.") and k != "blocks.1.norm1.bias"]
    refused(without(vit(), *gone), tmp_path, "missing blocks.1.norm1.weight", "and 5 more")
    refused(dino_full(teacher=without(branch(), "backbone.cls_token")), tmp_path, "lacking cls_token")


def test_a_block_with_a_number_far_off(tmp_path: Path) -> None:
    far = {"blocks.999999999.norm1.weight": torch.ones(24), "blocks.x.norm1.weight": torch.ones(24)}
    refused(vit() | far, tmp_path, "unexpected blocks.999999999.norm1.weight (24,), blocks.x.norm1.weight")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("blocks.0.norm1.weight", (25,)),
        ("blocks.1.mlp.fc1.weight", (48, 25)),
        ("cls_token", (24,)),
        ("blocks.0.attn.qkv.weight", (24, 24)),
        ("blocks.0.mlp.fc1.weight", (48,)),
        ("norm.bias", ()),
        ("pos_embed", (2, 17, 24)),
    ],
)
def test_wrong_shapes_are_listed(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    refused(vit() | {key: torch.ones(shape)}, tmp_path, "other shapes:", f"{key} {shape} for")


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("patch_embed.proj.weight", (24, 1, 8, 8), "square RGB patches"),
        ("patch_embed.proj.weight", (24, 3, 8, 16), "square RGB patches"),
        ("patch_embed.proj.weight", (24, 192), "square RGB patches"),
        ("patch_embed.proj.weight", (0, 3, 8, 8), "square RGB patches"),
        ("pos_embed", (1, 20, 24), "square grid"),
        ("pos_embed", (1, 0, 24), "square grid"),
        ("pos_embed", (17, 24), "square grid"),
    ],
)
def test_shapes_that_no_vit_has(key: str, shape: tuple[int, ...], words: str, tmp_path: Path) -> None:
    refused(vit() | {key: torch.ones(shape)}, tmp_path, words, str(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    """1e300 is finite in float64 only: as float32 it would be infinite."""
    bad = vit()["norm.bias"].double()
    bad[3] = value
    refused(vit() | {"norm.bias": bad}, tmp_path, "1 of 24 values NaN or infinite in norm.bias")
    head = branch()
    head["head.last_layer.weight_v"][2, 1] = float("nan")
    refused(dino_full(teacher=head), tmp_path, "head.prototypes.weight_v")
    refused(dino_full(dino_loss={"center": torch.full((1, 10), float("nan"))}), tmp_path, "centre")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    refused(vit() | {"norm.bias": torch.ones(24, dtype=dtype)}, tmp_path, f"{dtype} in norm.bias")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    found = load({k: t.to(dtype) for k, t in vit().items()}, tmp_path)
    assert {t.dtype for t in found.weights.values()} == {torch.float32}
    assert found.digest == load({k: t.to(dtype).float() for k, t in vit().items()}, tmp_path).digest


def test_weights_that_are_no_layout(tmp_path: Path) -> None:
    """As torch's own attention names them: says what was seen and what is nearest."""
    names = {
        "attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj.", "mlp.fc1.": "mlp.0.", "mlp.fc2.": "mlp.3.",
    }  # fmt: skip
    theirs = {}
    for key, tensor in vit().items():
        for ours, other in names.items():
            key = key.replace(ours, other)
        theirs[key] = tensor
    line = refused(theirs | CLASS_HEAD, tmp_path, "30 tensors", "as a ViT lacking blocks.0.attn.qkv.weight")
    assert "nearest there: blocks.0.attn.out_proj.weight" in line
    refused({"model": vit(), "optimizer": {}}, tmp_path, "the number of attention heads", num_heads=None)
    refused({"w": torch.ones(2)}, tmp_path, "name a file with a net of a kind known here")
    linear = {"module.linear.weight": torch.ones(10, 24), "module.linear.bias": torch.ones(10)}
    refused({"state_dict": linear, "epoch": 1}, tmp_path, "a linear classifier")


def test_a_file_that_two_families_could_claim(tmp_path: Path) -> None:
    tree = IBOT_FLAT | CLASS_HEAD  # a mask token as iBOT's, a class head as timm's
    refused(tree, tmp_path, "ibot and timm", "--family ibot or --family timm")
    ibot = load(tree, tmp_path, family="ibot")
    assert ibot.family == "ibot"
    assert ibot.dropped == dict.fromkeys(CLASS_HEAD, "class head")
    assert "mask_token" in ibot.weights
    other = load(tree, tmp_path, family="timm", **STATS)
    assert other.mean == STATS["mean"]
    assert set(other.dropped) == {"head.weight", "head.bias", "masked_embed"}
    assert other.digest == ibot.digest
    dino = load(vit() | CLASS_HEAD, tmp_path, family="dino")
    assert dino.arch.norm_eps == 1e-6
    refused(tree, tmp_path, "did you mean 'ibot'", kind=SettingsError, family="iobt")
    for family in ("msn", "own"):
        refused(vit(), tmp_path, kind=CheckpointError, family=family)
    refused(msn_full() | dino_full(), tmp_path, "dino and msn")


def test_ibot_heads_with_another_activation_are_left_out(tmp_path: Path) -> None:
    found = load(ibot_full(args=argparse.Namespace(act_in_head="relu")), tmp_path)
    assert found.head is None
    assert found.dropped["head.mlp.0.weight"] == "head with another activation"
    assert any("'relu'" in note for note in found.notes)


def test_msn_with_half_a_head(tmp_path: Path) -> None:
    alone = load(without(msn_full(), "prototypes"), tmp_path)
    assert alone.head is None
    assert alone.dropped["fc.fc1.weight"] == "projector without prototypes"
    bare = load(msn_full(target_encoder=vit()), tmp_path)
    assert bare.head is None
    assert bare.dropped["prototypes"] == "prototypes without a projector"


def test_digests_tell_nets_apart(tmp_path: Path) -> None:
    base = load(vit(), tmp_path)
    nudged = vit()
    nudged["norm.bias"][0] = torch.nextafter(nudged["norm.bias"][0], torch.tensor(9.0))
    transposed = vit()
    transposed["blocks.0.attn.proj.weight"] = transposed["blocks.0.attn.proj.weight"].T.contiguous()
    others = [
        load(nudged, tmp_path),
        load(transposed, tmp_path),
        load(vit(), tmp_path, num_heads=6),
        load(vit(), tmp_path, norm_eps=1e-5),
        load(vit(seed=1), tmp_path),
    ]
    assert len({base.digest, *(c.digest for c in others)}) == 6
    strided = {k: t.t().contiguous().t() if t.ndim == 2 else t for k, t in vit().items()}
    assert load(strided, tmp_path).digest == base.digest
    assert load(vit(), tmp_path, **STATS).digest == base.digest  # pixel statistics are part of the transform


def test_a_file_may_be_called_like_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(vit(), Path("random:mine"))
    assert evaltk.load_checkpoint("random:mine", **FLAT).family == "flat"
