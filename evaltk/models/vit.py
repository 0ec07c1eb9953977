"""timm's VisionTransformer with DINO's rule for positions at other sizes, mask tokens, and the last blocks' tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import drop
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from evaltk.models import vit_layout
from evaltk.models.kind import Kind, Shapes, Weights, check_patches
from evaltk.models.skeleton import on_meta
from evaltk.types import Arch, PositionRule

# DINO adds this to the target grid before dividing (dino/vision_transformer.py:184-187). It shifts every sample.
GRID_OFFSET = 0.1


def resample_positions(
    table: torch.Tensor, grid: tuple[int, int], *, rule: PositionRule = "dino", prefix: int = 1
) -> torch.Tensor:
    """The position table for a grid of h x w patches.

    Args:
        table: [1, prefix + g*g, D], the table as trained; the first `prefix` rows (class token) stay as they are.
        rule: ``dino`` (bicubic, scale factors (h + 0.1)/g, no antialias), ``size`` (bicubic to the size, no
            antialias) or ``timm`` (bicubic to the size, antialiased).

    Returns: [1, prefix + h*w, D], float32.
    Source: dino/vision_transformer.py:174-194.
    """
    side = math.isqrt(table.shape[1] - prefix)
    h, w = grid
    if h == w == side:
        return table
    trained = table[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()  # [1, D, g, g]
    if rule == "dino":
        scale = ((h + GRID_OFFSET) / side, (w + GRID_OFFSET) / side)
        moved = F.interpolate(trained, scale_factor=scale, mode="bicubic", align_corners=False)
    else:
        moved = F.interpolate(trained, size=(h, w), mode="bicubic", align_corners=False, antialias=rule == "timm")
    if tuple(moved.shape[-2:]) != (h, w):
        raise RuntimeError(f"positions for {h}x{w} came out as {tuple(moved.shape[-2:])}")
    return torch.cat([table[:, :prefix], moved.permute(0, 2, 3, 1).reshape(1, h * w, -1)], dim=1)


class DropPath(drop.DropPath):
    """timm's stochastic depth, whose draws on a CPU are the same whoever made it.

    Torch takes Bernoulli draws from MKL on processors of Intel's alone: other images would lose a block elsewhere.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, ...] without the images that lose this branch, the others scaled up for them."""
        if x.device.type != "cpu" or not self.training or not self.drop_prob:
            return super().forward(x)
        keep = 1 - self.drop_prob
        kept = torch.rand(len(x), *(1,) * (x.ndim - 1), dtype=torch.float64).lt(keep).to(x.dtype)
        return x * (kept.div_(keep) if keep > 0 and self.scale_by_keep else kept)


class ViT(VisionTransformer):
    """A ViT without a class head, for any image size.

    Sides that are no multiple of the patch lose the remainder at the right and bottom, as a strided convolution does.
    """

    def __init__(self, arch: Arch, *, position: PositionRule = "dino", drop_path: float = 0.0) -> None:
        hidden = round(arch.embed_dim * arch.mlp_ratio)
        super().__init__(
            img_size=arch.img_size,
            patch_size=arch.patch_size,
            num_classes=0,
            global_pool="token",
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            num_heads=arch.num_heads,
            mlp_ratio=(hidden + 0.5) / arch.embed_dim,  # timm cuts the product, which can come out just below `hidden`
            qkv_bias=True,
            init_values=1.0 if arch.layer_scale else None,
            class_token=True,
            no_embed_class=not arch.class_position,
            reg_tokens=arch.registers,
            drop_path_rate=drop_path,
            norm_layer=partial(nn.LayerNorm, eps=arch.norm_eps),
        )
        if arch.class_position and arch.registers:
            # timm gives registers rows of the table; in DINOv2's files only the class token has one.
            self.pos_embed = nn.Parameter(self.get_parameter("pos_embed").detach()[:, arch.registers :].clone())
        for block in self.blocks:
            for name, branch in block.named_children():
                if isinstance(branch, drop.DropPath):
                    setattr(block, name, DropPath(branch.drop_prob, branch.scale_by_keep))
        self.arch = arch
        self.position = position
        self.mask_token = nn.Parameter(torch.zeros(1, arch.embed_dim))

    def grid_of(self, images: torch.Tensor) -> tuple[int, int]:
        """(h, w), the number of patches along each side of images [B, 3, H, W]."""
        return images.shape[-2] // self.arch.patch_size, images.shape[-1] // self.arch.patch_size

    def embed(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What enters the first block: [B, 1 + registers + h*w, D].

        Args:
            images: [B, 3, H, W], normalised.
            mask: bool [B, h, w]; True patches are replaced by the mask token before positions are added
                (ibot/models/vision_transformer.py:205-222).
        """
        h, w = self.grid_of(images)
        if h < 1 or w < 1:
            raise ValueError(
                f"images must be at least one patch ({self.arch.patch_size} px), got {tuple(images.shape)}"
            )
        p = self.arch.patch_size
        x = self.patch_embed.proj(images[..., : h * p, : w * p]).flatten(2).transpose(1, 2)  # [B, h*w, D]
        if mask is not None:
            x = torch.where(mask.flatten(1).unsqueeze(-1), self.mask_token.to(x.dtype), x)
        prefix = int(self.arch.class_position)
        positions = resample_positions(self.pos_embed, (h, w), rule=self.position, prefix=prefix)
        cls = self.cls_token.expand(len(x), -1, -1)
        cls = cls + positions[:, :prefix] if prefix else cls
        x = x + positions[:, prefix:]
        registers = [self.reg_token.expand(len(x), -1, -1)] if self.arch.registers else []
        return torch.cat([cls.to(x.dtype), *registers, x], dim=1)

    def last_blocks(
        self, images: torch.Tensor, *, last: int = 1, mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Outputs of the last `last` blocks before the final norm, oldest first: each [B, 1 + registers + h*w, D]."""
        x = self.norm_pre(self.pos_drop(self.embed(images, mask)))
        kept = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i >= len(self.blocks) - last:
                kept.append(x)
        return kept


def build(
    arch: Arch, weights: Mapping[str, torch.Tensor], *, position: PositionRule = "dino", drop_path: float = 0.0
) -> ViT:
    """The net with exactly these weights (the mask token may be absent: it is then zero and unused).

    Built without drawing initial weights that would be thrown away; the tensors given become the net's own.
    """
    with on_meta():
        net = ViT(arch, position=position, drop_path=drop_path)
    complete = dict(weights) | {"mask_token": weights.get("mask_token", torch.zeros(1, arch.embed_dim))}
    net.load_state_dict(complete, strict=True, assign=True)
    return net


class ViTKind(Kind):
    """See `Kind`. Heads and LayerNorm's epsilon are not in the tensors, and other fields than the name fix the net."""

    name = "vit"
    built_by_name = False

    def recognises(self, weights: Weights) -> bool:
        """A class token, positions, patches and a block of self-attention."""
        return all(key in weights for key in vit_layout.KEYS)

    def read(self, weights: Weights, path: Path) -> Arch:
        """See `vit_layout.read`."""
        return vit_layout.read(weights, path)

    def settle(self, stated: Arch | None, weights: Weights, path: Path) -> Arch:
        """What is stated, else what the tensors tell: they are compared by `shapes`."""
        return stated or self.read(weights, path)

    def shapes(self, arch: Arch) -> Shapes:
        """See `vit_layout.shapes_of`."""
        return vit_layout.shapes_of(arch)

    def optional(self, arch: Arch) -> Shapes:
        """The mask token."""
        return {"mask_token": (1, arch.embed_dim)}

    def of_model(self, arch: Arch, model: Any) -> Arch:
        """Heads and epsilon."""
        heads, eps = model.blocks[0].attn.num_heads, getattr(model.norm, "eps", 1e-6)
        arch = replace(arch, num_heads=heads, norm_eps=eps)
        return replace(arch, name=vit_layout.name_of(arch))

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule) -> nn.Module:
        """See `build` of this file."""
        return build(arch, weights, position=position)

    def native_side(self, arch: Arch) -> int:
        """That of the position table."""
        return arch.img_size

    def forward_features(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        """All tokens of the last block after the final norm."""
        return self.norm(net, net.last_blocks(images)[0])

    def check_images(self, arch: Arch, side: tuple[int, int]) -> None:
        """At least one patch."""
        check_patches(arch, side)

    def num_blocks(self, arch: Arch) -> int:
        """All of them."""
        return arch.depth

    def blocks(
        self, net: Any, arch: Arch, images: torch.Tensor, *, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """See `ViT.last_blocks`."""
        return net.last_blocks(images, last=last, mask=mask), net.grid_of(images)

    def prefix(self, arch: Arch) -> int:
        """The class token and registers."""
        return 1 + arch.registers

    def norm(self, net: Any, x: torch.Tensor) -> torch.Tensor:
        """The final LayerNorm."""
        normed: torch.Tensor = net.norm(x)
        return normed


KIND = ViTKind()
