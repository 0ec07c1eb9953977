"""The ViT: positions at other sizes against an independent kernel, timm's own net, masks, odd sizes."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from layouts import ARCH, FLAT, gap, images, save, stream, vit
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

import evaltk
from evaltk.errors import CheckpointError, SettingsError
from evaltk.models.skeleton import on_meta
from evaltk.models.vit import DropPath, ViT, build, resample_positions
from evaltk.types import Arch, Checkpoint

A = -0.75  # coefficient of torch's cubic kernel


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return (A + 2) * x**3 - (A + 3) * x**2 + 1
    if x < 2:
        return A * x**3 - 5 * A * x**2 + 8 * A * x - 4 * A
    return 0.0


def kernel(source: int, target: int, scale: float) -> np.ndarray:
    """[target, source] weights: sample i lies at (i + 0.5) / scale - 0.5; the border is repeated."""
    rows = np.zeros((target, source))
    for i in range(target):
        at = (i + 0.5) / scale - 0.5
        first = int(np.floor(at)) - 1
        for j in range(first, first + 4):
            rows[i, min(max(j, 0), source - 1)] += cubic(at - j)
    return rows


def by_hand(table: torch.Tensor, grid: tuple[int, int], offset: float) -> torch.Tensor:
    """The table by two small matrix products in float64."""
    side = int((table.shape[1] - 1) ** 0.5)
    cells = table[0, 1:].double().numpy().reshape(side, side, -1)
    down, across = (kernel(side, n, (n + offset) / side) for n in grid)
    moved = np.einsum("ij,jkd,lk->ild", down, cells, across)
    return torch.cat([table[:, :1].double(), torch.from_numpy(moved).reshape(1, -1, cells.shape[-1])], dim=1)


@pytest.mark.parametrize("grid", [(6, 6), (30, 52), (24, 32), (28, 28), (14, 15), (1, 1), (7, 28), (13, 14)])
def test_dino_rule_is_the_separable_cubic_kernel(grid: tuple[int, int]) -> None:
    table = torch.randn(1, 197, 8, generator=stream())
    got = resample_positions(table, grid)
    assert got.shape == (1, 1 + grid[0] * grid[1], 8)
    assert gap(got, by_hand(table, grid, 0.1)) < 1e-5
    assert torch.equal(got[:, 0], table[:, 0])


def test_kernel_rows_of_the_specification() -> None:
    # An identity table shows the weights themselves; along one axis, the other being resampled too.
    table = torch.cat([torch.zeros(1, 1, 196), torch.eye(196)[None]], dim=1)
    weights = resample_positions(table, (6, 6))[0, 1:].reshape(6, 6, 14, 14)
    down = weights.sum(dim=(1, 3)) / weights.sum(dim=(1, 2, 3))[:, None]
    np.testing.assert_allclose(down[0, :4], [0.335622, 0.775220, -0.110842, 0], atol=2e-6)
    np.testing.assert_allclose(down[5, 10:], [0, -0.070932, 0.968310, 0.102621], atol=2e-6)
    larger = resample_positions(table, (30, 30))[0, 1:].reshape(30, 30, 14, 14)
    np.testing.assert_allclose(larger[0].sum(dim=(0, 2))[:3] / 30, [1.107640, -0.107640, 0], atol=2e-6)


@pytest.mark.parametrize("grid", [(6, 6), (30, 52)])
def test_size_rule_is_the_kernel_without_the_offset(grid: tuple[int, int]) -> None:
    table = torch.randn(1, 197, 8, generator=stream())
    assert gap(resample_positions(table, grid, rule="size"), by_hand(table, grid, 0.0)) < 1e-5
    assert gap(resample_positions(table, grid, rule="size"), by_hand(table, grid, 0.1)) > 0.01


@pytest.mark.parametrize("grid", [(6, 6), (30, 52)])
def test_timm_rule_is_timms(grid: tuple[int, int]) -> None:
    table = torch.randn(1, 197, 8, generator=stream())
    wanted = resample_abs_pos_embed(table, new_size=list(grid), num_prefix_tokens=1)
    assert gap(resample_positions(table, grid, rule="timm"), wanted) < 1e-6


@pytest.mark.parametrize("rule", ["dino", "size", "timm"])
def test_native_size_leaves_the_table_alone(rule: Any) -> None:
    table = torch.randn(1, 197, 8, generator=stream())
    assert resample_positions(table, (14, 14), rule=rule) is table


def loaded(arch: Arch, tmp_path: Path, **more: torch.Tensor) -> Checkpoint:
    path = save(vit(arch) | more, tmp_path / "net.pth")
    found = evaltk.load_checkpoint(path, **FLAT | {"num_heads": arch.num_heads})
    assert dataclasses.replace(found.arch, name=arch.name) == arch
    return found


KINDS = {
    "standard": {},
    "registers": {"registers": 3, "class_position": False},
    "layer scale": {"layer_scale": True},
    "no class position": {"class_position": False},
    "odd MLP": {"embed_dim": 44, "num_heads": 4, "mlp_ratio": 30 / 44},  # 44 * (30 / 44) is cut to 29
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_timms_own_net(kind: str, tmp_path: Path) -> None:
    arch = dataclasses.replace(ARCH, **KINDS[kind])
    checkpoint = loaded(arch, tmp_path)
    theirs = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=arch.embed_dim, depth=2, num_heads=arch.num_heads, num_classes=0,
        mlp_ratio=arch.mlp_ratio + 1e-9, reg_tokens=arch.registers, no_embed_class=not arch.class_position,
        init_values=1.0 if arch.layer_scale else None,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    theirs.load_state_dict(dict(checkpoint.weights), strict=True)
    x = images(2, 3, 32, 32)
    tokens = evaltk.build_backbone(checkpoint).tokens(x)[0]
    with torch.inference_mode():
        wanted = theirs.forward_features(x)
    assert gap(tokens.cls, wanted[:, 0]) < 1e-5
    assert gap(tokens.patches, wanted[:, 1 + arch.registers :]) < 1e-5


def test_standard_architectures_have_timms_tensors() -> None:
    for name in ("vit_small_patch16_224", "vit_base_patch16_224", "vit_small_patch8_224"):
        ours = evaltk.load_checkpoint(f"random:{name}") if "small_patch16" in name else None
        with on_meta():
            theirs = timm.create_model(name, num_classes=0)
        count = sum(p.numel() for p in theirs.parameters())
        if ours:
            assert {k: t.shape for k, t in ours.weights.items()} == {k: t.shape for k, t in theirs.state_dict().items()}
            assert sum(t.numel() for t in ours.weights.values()) == count == 21_665_664  # ViT-S/16 without head
        assert theirs.blocks[0].attn.num_heads == {"s": 6, "b": 12}[name[4]]
        assert theirs.norm.eps == 1e-6


@pytest.mark.parametrize("size", [(37, 45), (39, 33), (24, 71)])
def test_sides_that_are_no_multiple_are_cropped(size: tuple[int, int], tmp_path: Path) -> None:
    backbone = evaltk.build_backbone(loaded(ARCH, tmp_path), position="dino")
    x = images(2, 3, *size)
    h, w = (8 * (s // 8) for s in size)
    got, wanted = backbone.tokens(x)[0], backbone.tokens(x[..., :h, :w])[0]
    assert got.grid == (h // 8, w // 8)
    assert torch.equal(got.cls, wanted.cls)
    assert torch.equal(got.patches, wanted.patches)


def test_rows_and_columns_are_not_swapped(tmp_path: Path) -> None:
    backbone = evaltk.build_backbone(loaded(ARCH, tmp_path), position="dino")
    x = images(1, 3, 16, 48)
    tall = backbone.tokens(x.transpose(2, 3))[0]
    assert backbone.tokens(x)[0].grid == (2, 6)
    assert tall.grid == (6, 2)
    assert gap(backbone.tokens(x)[0].cls, tall.cls) > 1e-3


def test_a_probe_can_be_trained_on_tokens(tmp_path: Path) -> None:
    cls = evaltk.build_backbone(loaded(ARCH, tmp_path), position="dino").tokens(images(2, 3, 32, 32))[0].cls
    assert not cls.requires_grad
    probe = torch.nn.Linear(24, 2)
    probe(cls).sum().backward()
    assert probe.weight.grad is not None


def test_the_position_switch_reaches_the_net(tmp_path: Path) -> None:
    checkpoint = loaded(ARCH, tmp_path)
    nets = [evaltk.build_backbone(checkpoint, position=rule) for rule in ("dino", "size", "timm")]
    dino, size, antialiased = (net.tokens(images(1, 3, 16, 16))[0].cls for net in nets)
    assert min(gap(dino, size), gap(dino, antialiased), gap(antialiased, size)) > 1e-3
    with pytest.raises(SettingsError, match="--position"):
        evaltk.build_backbone(checkpoint, position="nearest")  # type: ignore[arg-type]


def test_the_mask_token_replaces_patches_before_positions(tmp_path: Path) -> None:
    mask_token = torch.randn(1, 24, generator=stream(8))
    backbone = evaltk.build_backbone(loaded(ARCH, tmp_path, masked_embed=mask_token))
    x = images(2, 3, 32, 32)
    mask = torch.rand(2, 4, 4, generator=stream(1)) < 0.4
    net = backbone.net
    assert isinstance(net, ViT)
    plain, masked = net.embed(x), net.embed(x, mask)
    positions = net.pos_embed[:, 1:].expand(2, -1, -1)
    flat = mask.flatten(1)
    torch.testing.assert_close(masked[:, 1:][flat], (mask_token + positions)[flat])
    torch.testing.assert_close(masked[:, 1:][~flat], plain[:, 1:][~flat])
    assert gap(backbone.tokens(x, mask=mask)[0].cls, backbone.tokens(x)[0].cls) > 1e-3


def test_a_mask_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    backbone = evaltk.build_backbone(loaded(ARCH, tmp_path), position="dino")
    with pytest.raises(SettingsError, match="mask token"):
        backbone.tokens(images(1, 3, 32, 32), mask=torch.zeros(1, 4, 4, dtype=torch.bool))


def test_files_in_dinov2s_layout(tmp_path: Path) -> None:
    """Layer scale, a mask token, registers that have no positions while the class token has one."""
    arch = dataclasses.replace(ARCH, registers=4, layer_scale=True)
    weights = vit(arch)
    theirs = {("register_tokens" if k == "reg_token" else k): t for k, t in weights.items()}
    theirs["mask_token"] = torch.randn(1, 24, generator=stream(8))
    checkpoint = evaltk.load_checkpoint(save(theirs, tmp_path / "net.pth"), **FLAT)
    assert dataclasses.replace(checkpoint.arch, name="tiny") == arch
    backbone = evaltk.build_backbone(checkpoint)
    x = images(2, 3, 32, 32)
    tokens = backbone.tokens(x)[0]
    assert tokens.patches.shape == (2, 16, 24)
    # timm's form of the same net: the class token's position added beforehand, none for registers.
    merged = weights | {"cls_token": weights["cls_token"] + weights["pos_embed"][:, :1]}
    merged["pos_embed"] = weights["pos_embed"][:, 1:]
    other = build(dataclasses.replace(arch, class_position=False), merged).eval()
    with torch.inference_mode():
        wanted = other.norm(other.last_blocks(x)[0])
    assert gap(tokens.cls, wanted[:, 0]) < 1e-5
    assert gap(tokens.patches, wanted[:, 5:]) < 1e-5


def test_positions_for_registers_are_refused(tmp_path: Path) -> None:
    weights = vit(dataclasses.replace(ARCH, registers=3))
    weights["pos_embed"] = torch.randn(1, 16 + 1 + 3, 24)
    with pytest.raises(CheckpointError, match="3 registers"):
        evaltk.load_checkpoint(save(weights, tmp_path / "net.pth"), num_heads=3)


def test_a_batch_of_one_equals_its_row_in_a_larger_batch(tmp_path: Path) -> None:
    backbone = evaltk.build_backbone(loaded(ARCH, tmp_path), position="dino")
    x = images(5, 3, 40, 32)
    assert gap(backbone.tokens(x[2:3])[0].cls, backbone.tokens(x)[0].cls[2:3]) < 1e-5


def test_blocks_come_oldest_first_and_the_norm_is_a_choice(tmp_path: Path) -> None:
    backbone = evaltk.build_backbone(loaded(ARCH, tmp_path), position="dino")
    x = images(1, 3, 32, 32)
    raw = backbone.tokens(x, last=2, norm=False)
    normed = backbone.tokens(x, last=2)
    for before, after in zip(raw, normed, strict=True):
        assert gap(backbone.net.norm(before.cls), after.cls) < 1e-6  # type: ignore[operator]
    assert torch.equal(raw[-1].cls, backbone.tokens(x, norm=False)[0].cls)
    for wrong in (0, 3):
        with pytest.raises(SettingsError, match="1 to 2 last blocks"):
            backbone.tokens(x, last=wrong)


def test_settings_that_no_net_has(tmp_path: Path) -> None:
    checkpoint = loaded(ARCH, tmp_path)
    with pytest.raises(SettingsError, match="--precision"):
        evaltk.build_backbone(checkpoint, precision="fp16")  # type: ignore[arg-type]
    for device in ("cuda:99", "gpu", "meta"):
        with pytest.raises(SettingsError, match="--device"):
            evaltk.build_backbone(checkpoint, device=device)
    with pytest.raises(SettingsError, match="at least one patch"):
        evaltk.build_backbone(checkpoint).tokens(images(1, 3, 32, 7))


def test_low_matmul_precision_of_the_caller_is_set_aside_and_given_back(tmp_path: Path) -> None:
    backbone = evaltk.build_backbone(loaded(ARCH, tmp_path), position="dino")
    x = images(2, 3, 32, 32)
    wanted = backbone.tokens(x)[0].cls
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(backbone.tokens(x)[0].cls, wanted)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_stochastic_depth_takes_uniform_draws() -> None:
    """Which images lose a branch: those whose number, of torch's uniform stream, is not below the share kept."""
    net = ViT(ARCH, drop_path=0.4)
    (last,) = [block.drop_path2 for block in net.blocks][-1:]
    assert type(last) is DropPath and last.drop_prob == pytest.approx(0.4)
    x = torch.ones(50, 3, 2)
    torch.manual_seed(3)
    found = last.train()(x)
    torch.manual_seed(3)
    kept = torch.rand(50, dtype=torch.float64) < 1 - last.drop_prob
    torch.testing.assert_close(found, kept[:, None, None] / (1 - last.drop_prob) * x)
    assert last.eval()(x) is x
