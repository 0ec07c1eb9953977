"""What a ViT's tensors are called and how large they are; and the way back, from tensors to architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from evaltk.errors import CheckpointError
from evaltk.models.kind import count
from evaltk.types import Arch

# Width -> heads of the published ViTs (ViT paper table 1; DINO vision_transformer.py:243-254). A custom, no proof:
# MoCo-v3's ViT-S is 384 wide and has 12 heads. Only a family whose nets all follow the table may take them from it.
STANDARD_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}
STANDARD_NAMES = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
# `args.arch` of DINO and iBOT -> (width, heads).
HINTS = {
    "vit_tiny": (192, 3),
    "deit_tiny": (192, 3),
    "vit_small": (384, 6),
    "deit_small": (384, 6),
    "vit_base": (768, 12),
    "deit_base": (768, 12),
    "vit_large": (1024, 16),
}
KEYS = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")


def read(weights: Mapping[str, torch.Tensor], path: Path) -> Arch:
    """The ViT that the tensors tell of. They do not tell heads and LayerNorm's epsilon: both are 0, the name empty.

    Raises: CheckpointError: shapes that fit no ViT.
    """
    dim, patch = _patches(weights["patch_embed.proj.weight"], path)
    reg = weights.get("reg_token")
    registers = reg.shape[1] if reg is not None and reg.ndim == 3 else 0
    grid, class_position = _grid(weights["pos_embed"], registers, path)
    fc1 = weights.get("blocks.0.mlp.fc1.weight")
    hidden = fc1.shape[0] if fc1 is not None and fc1.ndim == 2 else 4 * dim
    return Arch(
        name="",
        patch_size=patch,
        embed_dim=dim,
        depth=_depth(weights),
        num_heads=0,
        mlp_ratio=hidden / dim,
        img_size=grid * patch,
        norm_eps=0.0,
        registers=registers,
        layer_scale="blocks.0.ls1.gamma" in weights,
        class_position=class_position,
    )


def _patches(weight: torch.Tensor, path: Path) -> tuple[int, int]:
    """(width, patch) of a patch embedding [D,3,P,P]."""
    shape = tuple(weight.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or min(shape) < 1:
        raise CheckpointError(
            wanted="a patch embedding of square RGB patches, [D,3,P,P]",
            got=f"patch_embed.proj.weight {shape}",
            where=path,
            do="use a ViT for RGB images",
        )
    return shape[0], shape[2]


def _grid(table: torch.Tensor, registers: int, path: Path) -> tuple[int, bool]:
    """(side of the grid of patches, whether the class token has a row) of a position table [1,rows,D]."""
    rows = table.shape[1] if table.ndim == 3 else 0
    side = math.isqrt(rows)
    if rows > 0 and not (registers and _square(rows - 1 - registers)):
        if side**2 == rows:
            return side, False
        if _square(rows - 1):
            return math.isqrt(rows - 1), True
    more = f" with {registers} registers, which have rows of their own" if registers else ""
    raise CheckpointError(
        wanted="positions of a square grid, with or without a row for the class token: [1,g*g,D] or [1,1+g*g,D]",
        got=f"pos_embed {tuple(table.shape)}{more}",
        where=path,
        do="use a net for square images",
    )


def _square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _depth(weights: Mapping[str, torch.Tensor]) -> int:
    """Blocks that the keys number; a number far off is left to be an unexpected key."""
    return count(weights, "blocks.", limit=len(weights))


def name_of(arch: Arch) -> str:
    """timm's name for a standard ViT, else one that spells the sizes out."""
    dim, depth, heads, patch, side = arch.embed_dim, arch.depth, arch.num_heads, arch.patch_size, arch.img_size
    size = STANDARD_NAMES.get((dim, depth))
    if size and STANDARD_HEADS[dim] == heads and arch.mlp_ratio == 4.0:
        return f"vit_{size}_patch{patch}_{side}"
    return f"vit_patch{patch}_dim{dim}_depth{depth}_heads{heads}_img{side}"


def shapes_of(arch: Arch) -> dict[str, tuple[int, ...]]:
    """{key: shape} of every tensor a ViT of this architecture has, in DINO's and timm's common names."""
    d, hidden = arch.embed_dim, round(arch.embed_dim * arch.mlp_ratio)
    rows = (arch.img_size // arch.patch_size) ** 2 + int(arch.class_position)
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, d), "pos_embed": (1, rows, d)}
    if arch.registers:
        shapes["reg_token"] = (1, arch.registers, d)
    shapes["patch_embed.proj.weight"] = (d, 3, arch.patch_size, arch.patch_size)
    shapes["patch_embed.proj.bias"] = (d,)
    for i in range(arch.depth):
        block = {
            "norm1.weight": (d,),
            "norm1.bias": (d,),
            "attn.qkv.weight": (3 * d, d),
            "attn.qkv.bias": (3 * d,),
            "attn.proj.weight": (d, d),
            "attn.proj.bias": (d,),
            "norm2.weight": (d,),
            "norm2.bias": (d,),
            "mlp.fc1.weight": (hidden, d),
            "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (d, hidden),
            "mlp.fc2.bias": (d,),
        }
        if arch.layer_scale:
            block |= {"ls1.gamma": (d,), "ls2.gamma": (d,)}
        shapes |= {f"blocks.{i}.{key}": shape for key, shape in block.items()}
    return shapes | {"norm.weight": (d,), "norm.bias": (d,)}
