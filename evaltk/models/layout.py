"""What an architecture's tensors are called and how large they are; and the way back, from tensors to architecture."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from evaltk.errors import CheckpointError
from evaltk.rawfile import Converted, ReadOptions, pattern
from evaltk.types import Arch

# Width -> heads of the published ViTs (ViT paper table 1; DINO vision_transformer.py:243-254). Only these widths have
# a customary number of heads; for others the tensors do not tell and a guess would give wrong features in silence.
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
VIT_KEYS = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")


def kind_of(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Which builder the keys belong to: ``vit``, ``resnet``, ``xcit``, or None."""
    if all(key in weights for key in VIT_KEYS):
        return "vit"
    if "conv1.weight" in weights and "layer1.0.conv1.weight" in weights:
        return "resnet"
    if any(key.startswith("cls_attn_blocks.") for key in weights):
        return "xcit"
    return None


def read_vit(found: Converted, options: ReadOptions, path: Path) -> tuple[Arch, tuple[str, ...]]:
    """The ViT that the tensors tell of, with notes on what they do not tell.

    Raises: CheckpointError: shapes that fit no ViT; or heads or LayerNorm eps that nothing fixes (names the flag).
    """
    w = found.weights
    patch_embed, position = w["patch_embed.proj.weight"], w["pos_embed"]
    if patch_embed.ndim != 4 or patch_embed.shape[1] != 3 or patch_embed.shape[2] != patch_embed.shape[3]:
        got = f"patch_embed.proj.weight {tuple(patch_embed.shape)}"
        raise CheckpointError(
            wanted="a square patch embedding [D,3,P,P]", got=got, where=path, do="see PROTOCOLS of the net"
        )
    dim, patch = patch_embed.shape[0], patch_embed.shape[2]
    registers = w["reg_token"].shape[1] if "reg_token" in w else 0
    rows = position.shape[1] if position.ndim == 3 else 0
    class_position = math.isqrt(max(rows, 0)) ** 2 != rows or rows == 1
    grid = math.isqrt(max(rows - int(class_position), 0))
    if rows < 1 or grid**2 + int(class_position) != rows:
        got = f"pos_embed {tuple(position.shape)}"
        raise CheckpointError(
            wanted="positions of a square grid, [1,1+g*g,D]", got=got, where=path, do="use square images"
        )
    depth = 1 + max((int(k.split(".")[1]) for k in w if k.startswith("blocks.")), default=0)
    heads, note = _heads(found, options, dim, path)
    eps = options.norm_eps or found.norm_eps
    if eps is None:
        raise CheckpointError(
            wanted="the epsilon of the net's LayerNorms",
            got="a file that does not tell it",
            where=path,
            do="pass --norm-eps (1e-6 for timm's and DINO's ViTs, 1e-5 for torch's default)",
        )
    hidden = w["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in w else 0
    arch = Arch(
        name=vit_name(dim, depth, heads, patch, grid * patch),
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=hidden / dim,
        img_size=grid * patch,
        norm_eps=eps,
        registers=registers,
        layer_scale="blocks.0.ls1.gamma" in w,
        class_position=class_position,
    )
    return arch, note


def vit_name(dim: int, depth: int, heads: int, patch: int, img_size: int) -> str:
    """timm's name for a standard ViT, else one that spells the sizes out."""
    size = STANDARD_NAMES.get((dim, depth))
    if size and STANDARD_HEADS[dim] == heads:
        return f"vit_{size}_patch{patch}_{img_size}"
    return f"vit_patch{patch}_dim{dim}_depth{depth}_heads{heads}_img{img_size}"


def _heads(found: Converted, options: ReadOptions, dim: int, path: Path) -> tuple[int, tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    hint = HINTS.get(found.hint_arch or "")
    if hint and hint[0] != dim:
        notes = (
            f"the file calls itself {found.hint_arch} ({hint[0]} wide) but its tensors are {dim} wide: hint set aside",
        )
        hint = None
    heads = options.num_heads or found.num_heads or (hint and hint[1])
    if not heads and dim in STANDARD_HEADS:
        heads = STANDARD_HEADS[dim]
        notes += (f"heads are not stored: {heads}, as in the published nets {dim} wide",)
    if not heads:
        why = f" ({notes[0]})" if notes else ""
        raise CheckpointError(
            wanted="the number of attention heads, which tensors do not tell",
            got=f"a net {dim} wide, which is no standard width{why}",
            where=path,
            do="pass --num-heads",
        )
    if heads < 1 or dim % heads:
        raise CheckpointError(
            wanted=f"a number of heads that divides the width {dim}", got=str(heads), where=path, do="mend --num-heads"
        )
    return heads, notes


def vit_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
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


def check(
    weights: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], extra: Mapping, path: Path
) -> None:
    """Every expected tensor is there in its shape, and no other. `extra`: tensors that no rule of the family names.

    Raises: CheckpointError: listing what is missing, left over and of another shape, with the nearest names.
    """
    missing = [key for key in shapes if key not in weights]
    left = {k: tuple(t.shape) for k, t in (*weights.items(), *extra.items()) if k not in shapes}
    wrong = [
        f"{key} {tuple(weights[key].shape)} for {shape}"
        for key, shape in shapes.items()
        if key in weights and tuple(weights[key].shape) != tuple(shape)
    ]
    if not (missing or left or wrong):
        return
    parts = []
    if missing:
        near = {key: difflib.get_close_matches(key, list(left), n=1, cutoff=0.6) for key in missing}
        names = [f"{k} {tuple(shapes[k])}" + (f" (nearest there: {near[k][0]})" if near[k] else "") for k in missing]
        parts.append(f"missing {_some(names)}")
    if left:
        parts.append(f"unexpected {_some([f'{k} {shape}' for k, shape in left.items()])}")
    if wrong:
        parts.append(f"other shapes: {_some(wrong)}")
    raise CheckpointError(
        wanted=f"exactly the {len(shapes)} tensors of the net",
        got="; ".join(parts),
        where=path,
        do="name the right --branch or --family, or save the net's own state_dict",
    )


def similarity(keys: list[str], arch_keys: list[str]) -> tuple[int, int]:
    """How many key patterns of a known layout a file shares: (shared, patterns of the layout)."""
    known = {pattern(k) for k in arch_keys}
    return len(known & {pattern(k) for k in keys}), len(known)


def _some(items: list[str], limit: int = 6) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
