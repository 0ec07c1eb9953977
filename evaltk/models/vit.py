"""timm's VisionTransformer with each family's rule for positions at other sizes, mask tokens, and the last blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import Mlp, SwiGLUPacked, drop
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from evaltk.models import vit_block, vit_layout
from evaltk.models.activations import activation, of_transformer
from evaltk.models.kind import Kind, Shapes, Weights, check_patches, check_rule
from evaltk.models.skeleton import on_meta
from evaltk.types import Arch, PositionRule

# DINO adds this to the target grid before dividing (dino/vision_transformer.py:184-187). It shifts every sample.
GRID_OFFSET = 0.1
RULES: tuple[PositionRule, ...] = ("dino", "size", "size_aa")


def resample_positions(
    table: torch.Tensor, grid: tuple[int, int], *, rule: PositionRule | None = "dino", prefix: int = 1
) -> torch.Tensor:
    """The position table for a grid of h x w patches.

    Args:
        table: [1, prefix + g*g, D], the table as trained; the first `prefix` rows (class token) stay as they are.
        rule: ``dino`` (bicubic, scale factors (h + 0.1)/g, no antialias), ``size`` (bicubic to the size, no
            antialias) or ``size_aa`` (bicubic to the size, antialiased).

    Returns: [1, prefix + h*w, D], float32.
    Source: dino/vision_transformer.py:174-194.
    """
    side = math.isqrt(table.shape[1] - prefix)
    h, w = grid
    if h == w == side:
        return table
    rule = "size_aa" if rule == "timm" else rule
    if rule not in RULES:
        raise ValueError(f"no rule for positions of {h} x {w} patches, learnt for {side} x {side}: {rule}")
    trained = table[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()  # [1, D, g, g]
    if rule == "dino":
        scale = ((h + GRID_OFFSET) / side, (w + GRID_OFFSET) / side)
        moved = F.interpolate(trained, scale_factor=scale, mode="bicubic", align_corners=False)
    else:
        moved = F.interpolate(trained, size=(h, w), mode="bicubic", align_corners=False, antialias=rule == "size_aa")
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

    def __init__(self, arch: Arch, *, position: PositionRule | None = "dino", drop_path: float = 0.0) -> None:
        hidden = round(arch.embed_dim * arch.mlp_ratio)
        super().__init__(
            img_size=arch.img_size,
            patch_size=arch.patch_size,
            num_classes=0,
            global_pool=arch.pool,
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            num_heads=arch.num_heads,
            mlp_ratio=(hidden + 0.5) / arch.embed_dim,  # timm cuts the product, which can come out just below `hidden`
            qkv_bias=bool(vit_layout.detail(arch, "qkv_bias")),
            init_values=1.0 if arch.layer_scale else None,
            class_token=bool(vit_layout.detail(arch, "class_token")),
            no_embed_class=not arch.class_position,
            reg_tokens=arch.registers,
            pre_norm=bool(vit_layout.detail(arch, "pre_norm")),
            fc_norm=bool(vit_layout.detail(arch, "fc_norm")),
            drop_path_rate=drop_path,
            norm_layer=partial(nn.LayerNorm, eps=arch.norm_eps),
            act_layer=activation(arch.activation),
            mlp_layer=SwiGLUPacked if vit_layout.detail(arch, "swiglu") else Mlp,
        )
        self._other_parts(arch)
        for block in self.blocks:
            vit_block.refine(block)
            for name, branch in block.named_children():
                if isinstance(branch, drop.DropPath):
                    setattr(block, name, DropPath(branch.drop_prob, branch.scale_by_keep))
        self.arch = arch
        self.position = position
        self.mask_token = nn.Parameter(torch.zeros(1, arch.embed_dim))

    def _other_parts(self, arch: Arch) -> None:
        """Give the net the tensors that timm's has in another number: rows of the table, a bias, a stem."""
        dim, rows = arch.embed_dim, (arch.img_size // arch.patch_size) ** 2 + vit_layout.position_prefix(arch)
        table = self.get_parameter("pos_embed").detach()
        if table.shape[1] != rows:
            # timm gives registers rows of the table, and distillation tokens none; DINOv2 and DeiT the other way round.
            self.pos_embed = nn.Parameter(torch.cat([table.new_zeros(1, rows, dim), table], dim=1)[:, -rows:].clone())
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if vit_layout.detail(arch, "dist_token") else None
        if vit_layout.detail(arch, "stem") == "conv":
            self.patch_embed.proj = _conv_stem(dim)
        elif (self.patch_embed.proj.bias is not None) != vit_layout.detail(arch, "patch_bias"):
            size, bias = arch.patch_size, bool(vit_layout.detail(arch, "patch_bias"))
            self.patch_embed.proj = nn.Conv2d(3, dim, kernel_size=size, stride=size, bias=bias)

    def grid_of(self, images: torch.Tensor) -> tuple[int, int]:
        """(h, w), the number of patches along each side of images [B, 3, H, W]."""
        return images.shape[-2] // self.arch.patch_size, images.shape[-1] // self.arch.patch_size

    def embed(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What enters the first block: [B, class token + registers + h*w, D], where it has a class token.

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
        prefix = vit_layout.position_prefix(self.arch)
        positions = resample_positions(self.pos_embed, (h, w), rule=self.position, prefix=prefix)
        first = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]
        if prefix:
            first = [token + positions[:, i : i + 1] for i, token in enumerate(first)]
        x = x + positions[:, prefix:]
        registers = [self.reg_token.expand(len(x), -1, -1)] if self.arch.registers else []
        return torch.cat([*(token.to(x.dtype) for token in first), *registers, x], dim=1)

    def last_blocks(
        self, images: torch.Tensor, *, last: int = 1, mask: torch.Tensor | None = None, class_only: bool = False
    ) -> list[torch.Tensor]:
        """Outputs of the last `last` blocks before the final norm, oldest first: each as large as `embed` gives.

        Args: class_only: of the very last block the first token may suffice.
        """
        x = self.norm_pre(self.pos_drop(self.embed(images, mask)))
        kept = []
        for i, block in enumerate(self.blocks):
            alone = class_only and block is self.blocks[-1] and isinstance(block, vit_block.Block)
            x = block(x, class_only=True) if alone else block(x)
            if i >= len(self.blocks) - last:
                kept.append(x)
        return kept


def _conv_stem(dim: int) -> nn.Sequential:
    """Four convolutions of 3 x 3 and stride 2, each with BatchNorm and ReLU, then one of 1 x 1.

    Source: moco-v3/vits.py:102-132.
    """
    layers: list[nn.Module] = []
    before = 3
    for i in range(vit_layout.STEM):
        width = dim // 2 ** (vit_layout.STEM - 1 - i)
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Conv2d(before, dim, 1))


def build(
    arch: Arch, weights: Mapping[str, torch.Tensor], *, position: PositionRule | None = "dino", drop_path: float = 0.0
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
        """See `vit_layout.recognises`."""
        return vit_layout.recognises(weights)

    def read(self, weights: Weights, path: Path) -> Arch:
        """See `vit_layout.read`."""
        return vit_layout.read(weights, path)

    def settle(self, stated: Arch | None, weights: Weights, path: Path) -> Arch:
        """What is stated, else what the tensors tell: they are compared by `shapes`."""
        return stated or self.read(weights, path)

    def name_of(self, arch: Arch) -> str:
        """See `vit_layout.name_of`."""
        return vit_layout.name_of(arch)

    def shapes(self, arch: Arch) -> Shapes:
        """See `vit_layout.shapes_of`."""
        return vit_layout.shapes_of(arch)

    def optional(self, arch: Arch) -> Shapes:
        """The mask token."""
        return {"mask_token": (1, arch.embed_dim)}

    def of_model(self, arch: Arch, model: Any) -> Arch:
        """Heads, epsilon, activation, and what it pools."""
        pool = {"token": "token", "map": "map", "avg": "avg"}.get(model.global_pool, arch.pool)
        arch = replace(of_transformer(arch, model, model.blocks[0]), pool=pool)
        return replace(arch, name=vit_layout.name_of(arch))

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule | None) -> nn.Module:
        """See `build` of this file."""
        return build(arch, weights, position=position)

    def native_side(self, arch: Arch) -> int:
        """That of the position table."""
        return arch.img_size

    def forward_features(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        """All tokens of the last block after the final norm."""
        return self.norm(net, net.last_blocks(images)[0])

    def check_images(self, arch: Arch, side: tuple[int, int], position: PositionRule | None) -> None:
        """At least one patch, and a rule for positions of another size than the table's."""
        check_patches(arch, side)
        grid, trained = (side[0] // arch.patch_size, side[1] // arch.patch_size), arch.img_size // arch.patch_size
        if grid != (trained, trained):
            check_rule(arch, side, position, RULES)

    def num_blocks(self, arch: Arch) -> int:
        """All of them."""
        return arch.depth

    def blocks(
        self, net: Any, arch: Arch, images: torch.Tensor, *, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """See `ViT.last_blocks`."""
        return net.last_blocks(images, last=last, mask=mask), net.grid_of(images)

    def class_blocks(self, net: Any, arch: Arch, images: torch.Tensor, *, last: int) -> list[torch.Tensor]:
        """The last output is the class token alone where that is pooled."""
        outputs: list[torch.Tensor] = net.last_blocks(images, last=last, class_only=arch.pool == "token")
        return outputs

    def prefix(self, arch: Arch) -> int:
        """Class and distillation token, registers."""
        return vit_layout.prefix_tokens(arch)

    def pooled(self, net: Any, arch: Arch, x: torch.Tensor, *, norm: bool) -> torch.Tensor:
        """What `Arch.pool` names: the class token, the mean of patches, normed before or after, or attention.

        Without the norm a class token is given where there is one, whatever is pooled.
        """
        if arch.pool == "token":
            first: torch.Tensor = self.norm(net, x[:, :1])[:, 0] if norm else x[:, 0]
            return first
        if arch.pool == "map":  # attends to the normed tokens, whatever is asked for
            attended: torch.Tensor = net.attn_pool(net.norm(x))
            return attended
        if not norm and vit_layout.detail(arch, "class_token"):
            return x[:, 0]
        mean = super().pooled(net, arch, x, norm=norm)
        made: torch.Tensor = net.fc_norm(mean) if norm else mean
        return made

    def class_attention(self, net: Any, arch: Arch) -> Sequence[nn.Module]:
        """Those of all blocks where there is a class token; without one the attention pool, if it has that."""
        if vit_layout.detail(arch, "class_token"):
            return [block.attn for block in net.blocks]
        return [net.attn_pool] if arch.pool == "map" else []

    def norm(self, net: Any, x: torch.Tensor) -> torch.Tensor:
        """The final LayerNorm."""
        normed: torch.Tensor = net.norm(x)
        return normed


KIND = ViTKind()
