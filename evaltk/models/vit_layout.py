"""What a ViT's tensors are called and how large they are; and the way back, from tensors to architecture.

Names are timm's. Beyond the fields of `Arch` a ViT has these details, each with its value where none is stated:
``class_token`` True, ``dist_token`` False (a second token behind the class token), ``pre_norm`` False (a LayerNorm
before the first block), ``fc_norm`` False (the final norm acts on the pooled feature instead of on tokens),
``patch_bias`` True, ``qkv_bias`` True, ``swiglu`` False (a gated MLP: half of fc1 through the activation, times the
other half), ``stem`` "patch" ("conv": four strided convolutions, moco-v3/vits.py:102-132).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from evaltk.errors import CheckpointError
from evaltk.models.kind import count
from evaltk.types import Arch, Detail

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
STEM = 4  # strided convolutions of the conv stem, of stride 2 each


def recognises(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether the keys are a ViT's: positions, patches and a block of plain self-attention."""
    there = "patch_embed.proj.weight" in weights or f"patch_embed.proj.{3 * STEM}.weight" in weights
    return there and "pos_embed" in weights and "blocks.0.attn.qkv.weight" in weights


def read(weights: Mapping[str, torch.Tensor], path: Path) -> Arch:
    """The ViT that the tensors tell of. They do not tell heads and LayerNorm's epsilon: both are 0, the name empty.

    Raises: CheckpointError: shapes that fit no ViT.
    """
    conv = "patch_embed.proj.weight" not in weights
    dim, patch = (_stem(weights, path), 2**STEM) if conv else patches(weights, path)
    reg = weights.get("reg_token")
    registers = reg.shape[1] if reg is not None and reg.ndim == 3 else 0
    class_token = "cls_token" in weights
    dist = "dist_token" in weights
    grid, class_position = _grid(weights["pos_embed"], registers, int(class_token) + int(dist), path)
    fc1, fc2 = weights.get("blocks.0.mlp.fc1.weight"), weights.get("blocks.0.mlp.fc2.weight")
    hidden = fc1.shape[0] if fc1 is not None and fc1.ndim == 2 else 4 * dim
    swiglu = fc2 is not None and fc2.ndim == 2 and 2 * fc2.shape[1] == hidden
    pre_norm = "norm_pre.weight" in weights
    # Patches have no bias in nets with a norm behind them (CLIP), queries and keys in some of timm's: in no block then.
    details: dict[str, Detail] = {
        "class_token": class_token,
        "dist_token": dist,
        "fc_norm": "fc_norm.weight" in weights,
        "patch_bias": conv or not pre_norm or "patch_embed.proj.bias" in weights,
        "pre_norm": pre_norm,
        "qkv_bias": _depth(weights) < 2 or any(key.endswith(".attn.qkv.bias") for key in weights),
        "stem": "conv" if conv else "patch",
        "swiglu": swiglu,
    }
    pool = "token" if class_token else "avg"
    if "attn_pool.latent" in weights:
        pool = "map"
    elif details["fc_norm"]:
        pool = "avg"
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
        activation="silu" if swiglu else "",
        pool=pool,
        details=stated(details),
    )


DEFAULTS: dict[str, Detail] = {
    "class_token": True,
    "dist_token": False,
    "fc_norm": False,
    "patch_bias": True,
    "pre_norm": False,
    "qkv_bias": True,
    "stem": "patch",
    "swiglu": False,
}


def stated(details: Mapping[str, Detail]) -> tuple[tuple[str, Detail], ...]:
    """The details that are not at their defaults, sorted by name."""
    return tuple(sorted((k, v) for k, v in details.items() if v != DEFAULTS[k]))


def detail(arch: Arch, name: str) -> Detail:
    """A ViT's detail, its default where none is stated."""
    return arch.detail(name, DEFAULTS[name])


def prefix_tokens(arch: Arch) -> int:
    """Tokens before the patches: class and distillation token, registers."""
    return int(bool(detail(arch, "class_token"))) + int(bool(detail(arch, "dist_token"))) + arch.registers


def position_prefix(arch: Arch) -> int:
    """Rows of the position table before those of the patches."""
    return int(arch.class_position) * (prefix_tokens(arch) - arch.registers)


def _stem(weights: Mapping[str, torch.Tensor], path: Path) -> int:
    """Width of the tokens that a convolutional stem gives."""
    last = weights.get(f"patch_embed.proj.{3 * STEM}.weight")
    if last is None or last.ndim != 4:
        raise CheckpointError(
            wanted=f"a stem of {STEM} convolutions and a last one of 1 x 1, as MoCo-v3's",
            got="another" if last is None else f"patch_embed.proj.{3 * STEM}.weight {tuple(last.shape)}",
            where=path,
            do="name another file",
        )
    _check_width(weights, f"patch_embed.proj.{3 * STEM}.weight", path)
    return last.shape[0]


def patches(weights: Mapping[str, torch.Tensor], path: Path) -> tuple[int, int]:
    """(width, patch) of a patch embedding [D,3,P,P]. Raises: CheckpointError: another shape, or width of its norm."""
    if "patch_embed.proj.weight" not in weights:
        do = "save the net's own state_dict"
        raise CheckpointError(wanted="a patch embedding", got="no patch_embed.proj.weight", where=path, do=do)
    shape = tuple(weights["patch_embed.proj.weight"].shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or min(shape) < 1:
        raise CheckpointError(
            wanted="a patch embedding of square RGB patches, [D,3,P,P]",
            got=f"patch_embed.proj.weight {shape}",
            where=path,
            do="use a ViT for RGB images",
        )
    _check_width(weights, "patch_embed.proj.weight", path)
    return shape[0], shape[2]


def _check_width(weights: Mapping[str, torch.Tensor], key: str, path: Path) -> None:
    """Raises: CheckpointError: patches of another width than any norm that they go through."""
    shape = tuple(weights[key].shape)
    others = ("patch_embed.norm.weight", "blocks.0.norm1.weight", "blocks.1.norm1.weight", "norm_pre.weight")
    norms = {name: tuple(weights[name].shape) for name in others if name in weights}
    if norms and shape[:1] not in norms.values():
        raise CheckpointError(
            wanted="patches as wide as the norms that they go through",
            got=f"{key} {shape}, " + ", ".join(f"{name} {size}" for name, size in norms.items()),
            where=path,
            do="save the net's own state_dict",
        )


def _grid(table: torch.Tensor, registers: int, tokens: int, path: Path) -> tuple[int, bool]:
    """(side of the grid of patches, whether class and distillation token have rows) of a position table [1,rows,D].

    Args: tokens: how many of the two there are.
    """
    rows = table.shape[1] if table.ndim == 3 else 0
    side = math.isqrt(rows)
    if rows > 0 and not (registers and _square(rows - tokens - registers)):
        if side**2 == rows:
            return side, tokens == 0
        if _square(rows - tokens):
            return math.isqrt(rows - tokens), True
    if not tokens and _square(rows - 1):
        raise CheckpointError(
            wanted="a class token, for which the positions have a row",
            got=f"pos_embed {tuple(table.shape)}, lacking cls_token",
            where=path,
            do="save the net's own state_dict",
        )
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
        clip = "_clip" if detail(arch, "pre_norm") else ""
        return f"vit_{size}_patch{patch}{clip}_{side}"
    return f"vit_patch{patch}_dim{dim}_depth{depth}_heads{heads}_img{side}"


def shapes_of(arch: Arch) -> dict[str, tuple[int, ...]]:
    """{key: shape} of every tensor a ViT of this architecture has, in timm's names."""
    d, norm = arch.embed_dim, ("weight", "bias")
    rows = (arch.img_size // arch.patch_size) ** 2 + position_prefix(arch)
    shapes: dict[str, tuple[int, ...]] = {}
    for token in ("cls", "dist"):
        if detail(arch, "class_token" if token == "cls" else "dist_token"):
            shapes[f"{token}_token"] = (1, 1, d)
    shapes["pos_embed"] = (1, rows, d)
    if arch.registers:
        shapes["reg_token"] = (1, arch.registers, d)
    if detail(arch, "stem") == "conv":
        shapes |= _stem_shapes(d)
    else:
        shapes["patch_embed.proj.weight"] = (d, 3, arch.patch_size, arch.patch_size)
        if detail(arch, "patch_bias"):
            shapes["patch_embed.proj.bias"] = (d,)
    if detail(arch, "pre_norm"):
        shapes |= {f"norm_pre.{part}": (d,) for part in norm}
    for i in range(arch.depth):
        shapes |= {f"blocks.{i}.{key}": shape for key, shape in _block_shapes(arch).items()}
    shapes |= {f"{'fc_norm' if detail(arch, 'fc_norm') else 'norm'}.{part}": (d,) for part in norm}
    return shapes | (_pool_shapes(arch) if arch.pool == "map" else {})


def _block_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    d, hidden = arch.embed_dim, round(arch.embed_dim * arch.mlp_ratio)
    shapes: dict[str, tuple[int, ...]] = {
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
        "mlp.fc2.weight": (d, hidden // 2 if detail(arch, "swiglu") else hidden),
        "mlp.fc2.bias": (d,),
    }
    if not detail(arch, "qkv_bias"):
        del shapes["attn.qkv.bias"]
    if arch.layer_scale:
        shapes |= {"ls1.gamma": (d,), "ls2.gamma": (d,)}
    return shapes


def _stem_shapes(dim: int) -> dict[str, tuple[int, ...]]:
    """Convolutions of 3 x 3 without bias, each with a BatchNorm, and one of 1 x 1 (moco-v3/vits.py:102-132)."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for i in range(STEM):
        width = dim // 2 ** (STEM - 1 - i)
        shapes[f"patch_embed.proj.{3 * i}.weight"] = (width, before, 3, 3)
        of = f"patch_embed.proj.{3 * i + 1}."
        shapes |= {f"{of}{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{of}num_batches_tracked"] = ()
        before = width
    last = f"patch_embed.proj.{3 * STEM}."
    return shapes | {f"{last}weight": (dim, before, 1, 1), f"{last}bias": (dim,)}


def _pool_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """timm's AttentionPoolLatent: one query, attention over the tokens, a residual MLP."""
    d, hidden = arch.embed_dim, round(arch.embed_dim * arch.mlp_ratio)
    layers = {"q": (d, d), "kv": (2 * d, d), "proj": (d, d), "mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}
    shapes: dict[str, tuple[int, ...]] = {"attn_pool.latent": (1, 1, d)}
    for name, shape in layers.items():
        shapes |= {f"attn_pool.{name}.weight": shape, f"attn_pool.{name}.bias": shape[:1]}
    return shapes | {"attn_pool.norm.weight": (d,), "attn_pool.norm.bias": (d,)}
