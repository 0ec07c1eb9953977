"""BEiT's blocks: attention with a learnt bias for each offset between patches, built by timm.

Covers BEiT, BEiT-v2 and data2vec-vision, with one table of offsets for all blocks or one for each. A net of theirs with
positions instead of tables is a plain ViT. Details: ``shared`` (one table for all blocks), ``fc_norm`` (the final norm
acts on the mean of patches instead of on tokens), ``no_norm`` (there is no final norm, as in transformers' data2vec).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.beit import Beit, gen_relative_position_index
from torch import nn
from torch.nn import functional as F

from evaltk.errors import CheckpointError
from evaltk.models import vit_layout
from evaltk.models.activations import of_transformer
from evaltk.models.kind import Kind, Shapes, Weights, check_patches, check_rule, count
from evaltk.models.skeleton import undrawn
from evaltk.types import Arch, PositionRule

SHARED = "rel_pos_bias.relative_position_bias_table"
TABLE = "blocks.{}.attn.relative_position_bias_table"
SPECIAL = 3  # last rows of a table: class to patch, patch to class, class to class


class RelativeViT(Beit):
    """timm's Beit with its tables of offsets outside of the blocks, so that they can be resized for each image."""

    def __init__(self, arch: Arch, position: PositionRule | None) -> None:
        super().__init__(
            img_size=arch.img_size,
            patch_size=arch.patch_size,
            num_classes=0,
            global_pool="avg" if arch.detail("fc_norm") else "token",  # which decides where the final norm is
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            num_heads=arch.num_heads,
            mlp_ratio=arch.mlp_ratio,
            norm_layer=partial(nn.LayerNorm, eps=arch.norm_eps),
            init_values=1.0 if arch.layer_scale else None,
            use_abs_pos_emb=False,
        )
        rows = _rows(arch.img_size // arch.patch_size)
        count = 1 if arch.detail("shared") else arch.depth
        self.tables = nn.ParameterList(nn.Parameter(torch.zeros(rows, arch.num_heads)) for _ in range(count))
        if arch.detail("no_norm"):
            self.norm = nn.Identity()
        self.arch, self.position = arch, position

    def last_blocks(self, images: torch.Tensor, last: int) -> list[torch.Tensor]:
        """Outputs of the last blocks before the final norm, oldest first: each [B, 1 + h*w, D]."""
        grid = _grid(self.arch, images)
        p = self.arch.patch_size
        x = self.patch_embed.proj(images[..., : grid[0] * p, : grid[1] * p]).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        biases = [bias(table, grid, self.arch.img_size // p) for table in self.tables]
        kept = []
        for i, block in enumerate(self.blocks):
            # The whole bias of a block goes the way that timm has for one shared by all.
            x = block(x, shared_rel_pos_bias=biases[i % len(biases)].to(x.dtype))
            if i >= len(self.blocks) - last:
                kept.append(x)
        return kept


def bias(table: torch.Tensor, grid: tuple[int, int], trained: int) -> torch.Tensor:
    """What is added to attention [heads, 1 + h*w, 1 + h*w] for a grid of h x w patches.

    At another size than `trained` x `trained` the table is resized bilinearly to (2h-1, 2w-1), its last three rows kept
    (transformers, modeling_beit.py, generate_relative_position_index and BeitRelativePositionBias.forward).

    Args: table: [(2g-1)^2 + 3, heads], a row for each offset (dy + g-1)(2g-1) + dx + g-1.
    """
    h, w = grid
    if grid != (trained, trained):
        offsets = table[:-SPECIAL].reshape(1, 2 * trained - 1, 2 * trained - 1, -1).permute(0, 3, 1, 2)
        moved = F.interpolate(offsets, size=(2 * h - 1, 2 * w - 1), mode="bilinear")
        table = torch.cat([moved.permute(0, 2, 3, 1).reshape(-1, table.shape[1]), table[-SPECIAL:]])
    index = gen_relative_position_index((h, w)).to(table.device)
    return table[index.reshape(-1)].reshape(*index.shape, -1).permute(2, 0, 1).contiguous()


class BeitKind(Kind):
    """See `Kind`. Heads are the columns of a table; LayerNorm's epsilon is in no tensor."""

    name = "beit"
    built_by_name = False

    def recognises(self, weights: Weights) -> bool:
        """A table of offsets, and a block of attention with biases of query and value."""
        tables = SHARED in weights or TABLE.format(0) in weights
        return tables and "patch_embed.proj.weight" in weights and "blocks.0.attn.qkv.weight" in weights

    def read(self, weights: Weights, path: Path) -> Arch:
        """Sizes of the tensors; the name and epsilon are left open. Raises: CheckpointError: shapes of no such net."""
        dim, patch = vit_layout.patches(weights, path)
        table = weights.get(SHARED, weights.get(TABLE.format(0)))
        rows, heads = tuple(table.shape) if table is not None and table.ndim == 2 else (0, 0)
        side = (math.isqrt(max(rows - SPECIAL, 0)) + 1) // 2
        if rows != _rows(side) or heads < 1 or dim % heads:
            raise CheckpointError(
                wanted="a table of relative positions [(2g-1)^2 + 3, heads], the heads dividing the width",
                got=f"relative_position_bias_table ({rows}, {heads}) for patch_embed.proj.weight of width {dim}",
                where=path,
                do="name another file",
            )
        fc1 = weights.get("blocks.0.mlp.fc1.weight")
        hidden = fc1.shape[0] if fc1 is not None and fc1.ndim == 2 else 4 * dim
        fc_norm = "fc_norm.weight" in weights
        no_norm = not any(key.startswith(("norm.", "fc_norm.")) for key in weights)
        details = {"fc_norm": fc_norm, "no_norm": no_norm, "shared": SHARED in weights}
        return Arch(
            name="",
            kind=self.name,
            patch_size=patch,
            embed_dim=dim,
            depth=count(weights, "blocks.", limit=len(weights)),
            num_heads=heads,
            mlp_ratio=hidden / dim,
            img_size=side * patch,
            norm_eps=0.0,
            layer_scale="blocks.0.gamma_1" in weights,
            class_position=False,
            pool="avg" if fc_norm else "token",
            details=tuple((k, v) for k, v in sorted(details.items()) if v),
        )

    def settle(self, stated: Arch | None, weights: Weights, path: Path) -> Arch:
        """What is stated, else what the tensors tell: they are compared by `shapes`."""
        return stated or self.read(weights, path)

    def name_of(self, arch: Arch) -> str:
        """timm's name for a standard size, else one that spells the sizes out."""
        return vit_layout.name_of(arch).replace("vit_", "beit_", 1)

    def shapes(self, arch: Arch) -> Shapes:
        """In timm's names."""
        d, hidden = arch.embed_dim, round(arch.embed_dim * arch.mlp_ratio)
        rows = _rows(arch.img_size // arch.patch_size)
        shapes: Shapes = {
            "cls_token": (1, 1, d),
            "patch_embed.proj.weight": (d, 3, arch.patch_size, arch.patch_size),
            "patch_embed.proj.bias": (d,),
        }
        block: Shapes = {f"{norm}.{part}": (d,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        block |= {"attn.q_bias": (d,), "attn.v_bias": (d,), "attn.qkv.weight": (3 * d, d)}
        for layer, (outs, ins) in {"attn.proj": (d, d), "mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}.items():
            block |= {f"{layer}.weight": (outs, ins), f"{layer}.bias": (outs,)}
        block |= {"gamma_1": (d,), "gamma_2": (d,)} if arch.layer_scale else {}
        block |= {} if arch.detail("shared") else {"attn.relative_position_bias_table": (rows, arch.num_heads)}
        shapes |= {f"blocks.{i}.{key}": shape for i in range(arch.depth) for key, shape in block.items()}
        shapes |= {SHARED: (rows, arch.num_heads)} if arch.detail("shared") else {}
        if arch.detail("no_norm"):
            return shapes
        final = "fc_norm" if arch.detail("fc_norm") else "norm"
        return shapes | {f"{final}.weight": (d,), f"{final}.bias": (d,)}

    def of_model(self, arch: Arch, model: Any) -> Arch:
        """Heads, epsilon, activation and what it pools."""
        pool = "token" if model.global_pool == "token" else "avg"
        arch = replace(of_transformer(arch, model, model.blocks[0]), pool=pool)
        return replace(arch, name=self.name_of(arch))

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule | None) -> nn.Module:
        """The net, its tables set apart."""
        with undrawn():
            net = RelativeViT(arch, position)
        names = [SHARED] if arch.detail("shared") else [TABLE.format(i) for i in range(arch.depth)]
        renamed = {name: f"tables.{i}" for i, name in enumerate(names)}
        net.load_state_dict({renamed.get(k, k): t for k, t in weights.items()}, strict=True, assign=True)
        return net

    def native_side(self, arch: Arch) -> int:
        """That of the tables."""
        return arch.img_size

    def check_images(self, arch: Arch, side: tuple[int, int], position: PositionRule | None) -> None:
        """At least one patch; another size than the tables' by the rule `bilinear` alone."""
        check_patches(arch, side)
        trained = arch.img_size // arch.patch_size
        if (side[0] // arch.patch_size, side[1] // arch.patch_size) != (trained, trained):
            check_rule(arch, side, position, ("bilinear",))

    def forward_features(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        """All tokens of the last block after the final norm."""
        (x,), _ = self.blocks(net, net.arch, images, last=1, mask=None)
        return self.norm(net, x)

    def num_blocks(self, arch: Arch) -> int:
        """All of them."""
        return arch.depth

    def blocks(
        self, net: Any, arch: Arch, images: torch.Tensor, *, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """See `RelativeViT.last_blocks`."""
        return net.last_blocks(images, last), _grid(arch, images)

    def pooled(self, net: Any, arch: Arch, x: torch.Tensor, *, norm: bool) -> torch.Tensor:
        """The class token, or, with the norm and where the net has `fc_norm`, the mean of patches through it."""
        if not norm:
            return x[:, 0]
        found = super().pooled(net, arch, x, norm=norm)
        made: torch.Tensor = net.fc_norm(found) if arch.pool == "avg" else found
        return made

    def class_attention(self, net: Any, arch: Arch) -> Sequence[nn.Module]:
        """Those of all blocks."""
        return [block.attn for block in net.blocks]

    def norm(self, net: Any, x: torch.Tensor) -> torch.Tensor:
        """The final LayerNorm, nothing where the net has `fc_norm`."""
        normed: torch.Tensor = net.norm(x)
        return normed


def _rows(side: int) -> int:
    return (2 * side - 1) ** 2 + SPECIAL


def _grid(arch: Arch, images: torch.Tensor) -> tuple[int, int]:
    return images.shape[-2] // arch.patch_size, images.shape[-1] // arch.patch_size


KIND = BeitKind()
