"""Attention of the class token: DINO's own numbers (tests/golden/ATTENTION.md), timm's slow path, and nets without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_files import FILES
from family_files import GOLDEN as FAMILY_FILES
from layouts import GOLDEN, gap

import evaltk
from evaltk.errors import SettingsError
from evaltk.models import attention
from evaltk.models.backbone import Backbone

WANTED = np.load(GOLDEN / "attention.npz")
NETS = np.load(GOLDEN / "nets.npz")


@pytest.fixture(scope="module")
def dino() -> Backbone:
    return evaltk.build_backbone(evaltk.load_checkpoint(GOLDEN / "dino_p16_full_checkpoint.pth", num_heads=3))


@pytest.mark.parametrize("size", ["224", "96", "wide"])
def test_dinos_maps_at_any_size(dino: Backbone, size: str) -> None:
    found = attention.class_attention(dino, torch.from_numpy(NETS[f"dino_{size}_input"]))
    wanted = torch.from_numpy(WANTED[f"dino_{size}_attention"])
    assert found.shape == (1, *wanted.shape)
    assert gap(found[0], wanted) < 1e-5
    for mass in (0.6, 0.2):
        kept = attention.keep_mass(wanted, mass).numpy()
        np.testing.assert_array_equal(kept, WANTED[f"dino_{size}_kept_{mass}"])


def test_each_block_by_the_formula(dino: Backbone) -> None:
    images = torch.from_numpy(NETS["dino_96_input"])
    net = dino.net
    x = net.norm_pre(net.pos_drop(net.embed(images, None)))  # type: ignore[operator,union-attr]
    for number, block in enumerate(net.blocks, 1):  # type: ignore[arg-type]
        y = block.norm1(x)
        query, key, _ = block.attn.qkv(y).reshape(1, -1, 3, 3, 16).permute(2, 0, 3, 1, 4)
        slow = torch.stack([torch.softmax(query[0, h, 0] @ key[0, h].T / 4, dim=0) for h in range(3)])[:, 1:]
        found = attention.class_attention(dino, images, block=number)[0]
        assert gap(found.flatten(1), slow) < 1e-5
        x = block(x)


# A distillation token, registers, offsets and rotary positions, positions at another size, an attention pool.
KINDS = ["deit_distilled", "dinov2_reg_pretrain", "beit_ft", "dinov3_vit", "hf_siglip_vision", "mocov3_vit"]


@pytest.mark.parametrize("name", KINDS)
def test_fused_and_unfused_attention_agree(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = next(FAMILY_FILES.glob(f"{name}_checkpoint.*"))
    if name.startswith("hf"):
        (tmp_path / "config.json").write_bytes((FAMILY_FILES / f"{name}_config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(path.read_bytes())
        path = tmp_path
    backbone = evaltk.build_backbone(evaltk.load_checkpoint(path, **FILES[name][1]))
    side = 32 if name == "dinov3_vit" else backbone.kind.native_side(backbone.arch)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    fused = attention.class_attention(backbone, images)
    for module in backbone.net.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    unfused = attention.class_attention(backbone, images)
    assert gap(fused, unfused) < 1e-5
    cells = side // backbone.arch.patch_size
    assert fused.shape[-2:] == (cells, cells) and float(fused.min()) >= 0
    assert float(fused.sum((-1, -2)).max()) <= 1 + 1e-5


def test_the_net_is_left_as_it_was(dino: Backbone) -> None:
    images = torch.from_numpy(NETS["dino_96_input"])
    before = dino.tokens(images)[0].cls
    attention.class_attention(dino, images)
    assert torch.equal(dino.tokens(images)[0].cls, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in dino.net.modules())


@pytest.mark.parametrize("name", ["esvit_swin", "ijepa"])
def test_nets_without(name: str) -> None:
    path = next(FAMILY_FILES.glob(f"{name}_checkpoint.*"))
    backbone = evaltk.build_backbone(evaltk.load_checkpoint(path, **FILES[name][1]))
    assert attention.layers(backbone) == []
    with pytest.raises(SettingsError, match="class token attends"):
        attention.class_attention(backbone, torch.zeros(1, 3, 32, 32))


def test_no_such_block(dino: Backbone) -> None:
    with pytest.raises(SettingsError, match="block from 1 to 5; got 6"):
        attention.class_attention(dino, torch.from_numpy(NETS["dino_96_input"]), block=6)


def test_mass_by_hand() -> None:
    rng = torch.Generator().manual_seed(3)
    maps = torch.rand(4, 3, 5, generator=rng)
    for mass in (0.1, 0.5, 0.9, 1.0):
        for one in maps:
            kept = attention.keep_mass(one, mass)
            values = sorted(one.flatten().tolist(), reverse=True)
            held, least = 0.0, 0
            while held < mass * sum(values) - 1e-6:  # the fewest of the largest that hold that much
                held, least = held + values[least], least + 1
            assert int(kept.sum()) == least
            assert one[kept].min() >= one[~kept].max() if least < 15 else bool(kept.all())
