"""Projection heads: rebuilt from their tensors as the original classes compute, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import (
    FLAT,
    Weights,
    branch,
    dino_full,
    dino_head,
    gap,
    ibot_full,
    images,
    msn_full,
    msn_projector,
    save,
    under,
    vit,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import evaltk
from evaltk.errors import CheckpointError
from evaltk.models import heads
from evaltk.models.backbone import Head
from evaltk.types import HeadWeights

CLS = images(5, 24, seed=11)


def load(tree: object, tmp_path: Path) -> Head:
    return evaltk.build_head(evaltk.load_checkpoint(save(tree, tmp_path / "net.pth"), num_heads=3))


def refused(tree: object, tmp_path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(tree, tmp_path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def with_head(head: Weights) -> dict[str, Any]:
    return dino_full(teacher=under("backbone.", vit()) | under("head.", head))


def by_hand(head: Weights, x: torch.Tensor) -> torch.Tensor:
    """Logits of a DINO head from the formula, in float64; its layers in the order of their numbers."""
    x = x.double()
    numbers = sorted({int(k.split(".")[1]) for k in head if k.startswith("mlp.")})
    for n in numbers:
        own = {k.removeprefix(f"mlp.{n}."): t.double() for k, t in head.items() if k.startswith(f"mlp.{n}.")}
        if "running_mean" in own:
            x = (x - own["running_mean"]) / (own["running_var"] + 1e-5).sqrt() * own["weight"] + own["bias"]
        else:
            x = F.gelu(x) if n else x
            x = x @ own["weight"].T + own.get("bias", 0)
    y = x / x.norm(dim=1, keepdim=True)
    g, v = head["last_layer.weight_g"].double(), head["last_layer.weight_v"].double()
    return y @ (g * v / v.norm(dim=1, keepdim=True)).T


@pytest.mark.parametrize("norm", [False, True])
def test_dino_logits_from_the_formula(norm: bool, tmp_path: Path) -> None:
    """With BatchNorm, the order Linear, BN, GELU: the numbers 0, 1, 3, 4, 6 (dino/vision_transformer.py:257-291)."""
    weights = dino_head(norm=norm)
    head = load(with_head(weights), tmp_path)
    y = head.embed(CLS)
    torch.testing.assert_close(y.norm(dim=1), torch.ones(5))
    assert gap(head.logits(y), by_hand(weights, CLS)) < 1e-5
    assert head.prototypes.shape == (10, 8)
    torch.testing.assert_close(head.prototypes.norm(dim=1), weights["last_layer.weight_g"].abs().flatten())
    assert torch.equal(head.patch_prototypes, head.prototypes)
    assert head.center is not None
    assert torch.equal(head.center, torch.arange(10.0))


def test_gelu_after_batch_norm_only(tmp_path: Path) -> None:
    """`by_hand` puts GELU before each later Linear; this is torch's own Sequential in the original's order."""
    weights = dino_head(norm=True)
    net = nn.Sequential(
        nn.Linear(24, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.GELU(),
        nn.Linear(16, 8),
    ).eval()  # fmt: skip
    net.load_state_dict({k.removeprefix("mlp."): t for k, t in weights.items() if k.startswith("mlp.")}, strict=True)
    assert gap(load(with_head(weights), tmp_path).project(CLS), net(CLS).detach()) < 1e-6


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_sign_of_g_counts(tmp_path: Path) -> None:
    weights = dino_head()
    assert weights["last_layer.weight_g"].min() < 0 < weights["last_layer.weight_g"].max()
    layer = nn.Linear(8, 10, bias=False)
    legacy = nn.utils.weight_norm(layer)
    legacy.load_state_dict({k.removeprefix("last_layer."): t for k, t in weights.items() if "last" in k}, strict=True)
    head = load(with_head(weights), tmp_path)
    y = head.embed(CLS)
    assert gap(head.logits(y), legacy(y).detach()) < 1e-6


def test_the_newer_names_of_weight_norm(tmp_path: Path) -> None:
    layer = parametrizations.weight_norm(nn.Linear(8, 10, bias=False))
    plain = dino_head()
    with torch.no_grad():
        layer.parametrizations.weight.original0.copy_(plain["last_layer.weight_g"])
        layer.parametrizations.weight.original1.copy_(plain["last_layer.weight_v"])
    newer = {k: t for k, t in plain.items() if "last_layer" not in k} | under("last_layer.", dict(layer.state_dict()))
    assert "last_layer.parametrizations.weight.original0" in newer
    old, new = load(with_head(plain), tmp_path), load(with_head(newer), tmp_path)
    assert torch.equal(old.prototypes, new.prototypes)
    y = new.embed(CLS)
    assert gap(new.logits(y), layer(y).detach()) < 1e-6
    refused(with_head(plain | newer), tmp_path, "unexpected", "parametrizations")


def test_a_plain_last_layer_and_a_single_layer(tmp_path: Path) -> None:
    weights = {"mlp.weight": torch.randn(8, 24), "mlp.bias": torch.randn(8), "last_layer.weight": torch.randn(10, 8)}
    head = load(with_head(weights), tmp_path)
    wanted = F.normalize(CLS @ weights["mlp.weight"].T + weights["mlp.bias"], dim=1) @ weights["last_layer.weight"].T
    assert gap(head.logits(head.embed(CLS)), wanted) < 1e-6


def test_ibot_has_prototypes_for_patches(tmp_path: Path) -> None:
    tree = ibot_full()
    head = load(tree, tmp_path)
    assert (head.kind, head.prototypes.shape, head.patch_prototypes.shape) == ("ibot", (10, 8), (6, 8))
    patches = images(2, 7, 24)
    y = head.embed(patches)
    assert y.shape == (2, 7, 8)
    v = tree["teacher"]["head.last_layer2.weight_v"]
    assert gap(head.logits(y, patch=True), y @ F.normalize(v, dim=1).T) < 1e-6


@pytest.mark.parametrize("norm", [True, False])
def test_msn_projector_and_unit_prototypes(norm: bool, tmp_path: Path) -> None:
    """fc1 BN GELU fc2 BN GELU fc3; its prototypes are made unit as its loss does (msn/src/losses.py)."""
    parts = msn_projector(norm=norm)
    tree = msn_full(target_encoder=vit() | under("fc.", parts))
    head = load(tree, tmp_path)
    x = CLS
    for i in (1, 2, 3):
        x = F.linear(x, parts[f"fc{i}.weight"], parts[f"fc{i}.bias"])
        if norm and i < 3:
            bn = {k: parts[f"bn{i}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")}
            x = F.batch_norm(x, **bn, training=False)
        x = F.gelu(x) if i < 3 else x
    assert gap(head.project(CLS), x) < 1e-6
    cosines = F.normalize(x, dim=1) @ F.normalize(tree["prototypes"], dim=1).T
    assert gap(head.logits(head.embed(CLS)), cosines) < 1e-6
    assert head.center is None


def test_half_precision_heads_are_rebuilt_in_float32(tmp_path: Path) -> None:
    half = {k: t.half() for k, t in dino_head().items()}
    head = load(with_head(half), tmp_path)
    assert gap(head.logits(head.embed(CLS)), by_hand({k: t.float() for k, t in half.items()}, CLS)) < 1e-5


NORMED = dino_head(norm=True)


def less(head: Weights, *keys: str) -> Weights:
    return {k: t for k, t in head.items() if k not in keys}


@pytest.mark.parametrize(
    ("head", "words"),
    [
        # Hidden layers are square: left out without an error, the head would still give numbers.
        (less(dino_head(), "mlp.2.weight", "mlp.2.bias"), ("mlp.2.weight missing", "mlp.2.bias missing")),
        (less(dino_head(), "mlp.0.weight", "mlp.0.bias"), ("mlp.0.weight missing",)),
        (less(dino_head(), "mlp.4.weight", "mlp.4.bias"), ("weight_v (10, 8) for (10, 16)",)),
        (less(dino_head(), "mlp.2.bias"), ("mlp.2.bias missing",)),
        (less(NORMED, "mlp.1.running_var"), ("mlp.1.running_var missing",)),
        (less(NORMED, "mlp.4.running_mean"), ("mlp.4.running_mean missing",)),
        (less(NORMED, "mlp.4.bias"), ("mlp.4.bias missing",)),
        (less(NORMED, *[k for k in NORMED if k.startswith("mlp.4.")]), ("mlp.4.weight missing",)),
        (less(dino_head(), "last_layer.weight_g"), ("prototypes.weight_g missing",)),
        (less(dino_head(), "last_layer.weight_v"), ("prototypes.weight_v missing",)),
        (less(dino_head(), "last_layer.weight_g", "last_layer.weight_v"), ("prototypes.weight_g missing",)),
        ({"last_layer.weight": torch.ones(10, 8)}, ("mlp.0.weight missing",)),
        (dino_head() | {"last_layer.bias": torch.ones(10)}, ("prototypes.bias (10,) left over",)),
        (dino_head() | {"last_layer.weight": torch.ones(10, 8)}, ("prototypes.weight_g (10, 1) left over",)),
        (dino_head() | {"last_layer.weight_g": torch.ones(1, 1)}, ("weight_g (1, 1) for (10, 1)",)),
        (dino_head() | {"last_layer.weight_g": torch.ones(10)}, ("weight_g (10,) for (10, 1)",)),
        (dino_head() | {"mlp.2.weight": torch.ones(16, 17)}, ("mlp.2.weight (16, 17) for (16, 16)",)),
        (dino_head() | {"mlp.0.weight": torch.ones(16, 25)}, ("mlp.0.weight (16, 25) for (16, 24)",)),
        (dino_head() | {"mlp.1.weight": torch.ones(16)}, ("mlp.1.weight (16,) left over",)),
        (dino_head() | {"mlp.x.weight": torch.ones(16)}, ("mlp.x.weight (16,) left over",)),
        (dino_head() | {"mlp.2.weight": torch.ones(16)}, ("mlp.2.weight (16,) for",)),
        (dino_head() | {"mlp.999.weight": torch.ones(16, 8)}, ("missing",)),
    ],
)
def test_a_head_is_whole_or_an_error(head: Weights, words: tuple[str, ...], tmp_path: Path) -> None:
    refused(with_head(head), tmp_path, "the whole projection head of dino", *words)


def test_a_centre_of_another_length(tmp_path: Path) -> None:
    refused(dino_full(dino_loss={"center": torch.zeros(1, 11)}), tmp_path, "a centre of 11 for 10 prototypes")


@pytest.mark.parametrize(
    "gone", ["fc2.weight", "bn1.running_var", "bn2.weight", "fc3.bias", "fc1.weight", "fc3.weight"]
)
def test_an_msn_projector_is_whole_or_an_error(gone: str, tmp_path: Path) -> None:
    parts = less(msn_projector(), gone)
    refused(msn_full(target_encoder=vit() | under("fc.", parts)), tmp_path, f"{gone} missing")


def test_msn_prototypes_of_another_dimension(tmp_path: Path) -> None:
    refused(msn_full(prototypes=torch.ones(12, 9)), tmp_path, "prototypes.weight (12, 9) for (12, 8)")


def test_a_prototype_without_a_direction(tmp_path: Path) -> None:
    weights = dino_head()
    weights["last_layer.weight_v"][3] = 0
    refused(with_head(weights), tmp_path, "row 3 is zero")


def test_no_head(tmp_path: Path) -> None:
    checkpoint = evaltk.load_checkpoint(save(vit(), tmp_path / "net.pth"), **FLAT)
    with pytest.raises(CheckpointError, match="a checkpoint with its projection head; got a flat file without one"):
        evaltk.build_head(checkpoint)


def test_a_head_built_by_hand_is_checked_too() -> None:
    with pytest.raises(CheckpointError, match="left over"):
        Head(HeadWeights(kind="dino", tensors={"prototypes.weight": torch.ones(3, 2), "x": torch.ones(1)}))


def test_the_teacher_and_the_student_have_their_own(tmp_path: Path) -> None:
    tree = dino_full(student=branch("module.", seed=5, p=6))
    path = save(tree, tmp_path / "net.pth")
    student = evaltk.load_checkpoint(path, num_heads=3, branch="student")
    assert evaltk.build_head(student).prototypes.shape == (10, 6)


def test_effective_prototypes_are_rounded_once() -> None:
    """Equal v and g make equal rows wherever they stand, and each entry is g v/||v|| to half a float32 step."""
    draw = torch.Generator().manual_seed(0)
    v, g = torch.randn(11, 77, generator=draw), torch.randn(11, 1, generator=draw)
    found = heads.effective({"w.weight_v": v.repeat(9, 1), "w.weight_g": g.repeat(9, 1)}, "w.")
    assert len(found.unique(dim=0)) == 11
    wide = g.double() * v.double() / torch.linalg.vector_norm(v.double(), dim=1, keepdim=True)
    torch.testing.assert_close(found[:11].double(), wide, rtol=2**-24 * 1.0001, atol=0)
    rows = heads.unit(v)
    torch.testing.assert_close(rows, F.normalize(v, dim=1))  # which sums float32 squares in an order of its own
    assert heads.unit(torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]
