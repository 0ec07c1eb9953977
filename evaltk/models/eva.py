"""DINOv3's ViT: rotary positions in every block instead of a table, built by timm (its Eva).

Details: ``swiglu`` (a gated MLP, both halves of the gate in fc1), ``qkv_bias`` (True where not stated; of query and
value, the key's is zero in all of these nets).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.eva import Eva
from torch import nn

from evaltk.errors import CheckpointError, SettingsError
from evaltk.models import vit_layout
from evaltk.models.activations import activation, of_transformer
from evaltk.models.kind import Kind, Shapes, Weights, check_patches, count
from evaltk.models.skeleton import undrawn
from evaltk.types import Arch, PositionRule

PERIODS = "rope.periods"  # [head width / 4]; DINOv3's files have them, rounded to bfloat16 in the published ones
MARKS = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.gamma_1", "reg_token")
BASE = 100.0


class EvaKind(Kind):
    """See `Kind`. Heads and LayerNorm's epsilon are in no tensor, but for the periods of the original's files."""

    name = "eva"
    built_by_name = False
    sized_by_tensors = False

    def recognises(self, weights: Weights) -> bool:
        """Registers and layer scale as timm's Eva has them, and no positions of any kind."""
        there = all(key in weights for key in MARKS)
        return there and "pos_embed" not in weights and not any("relative_position" in key for key in weights)

    def read(self, weights: Weights, path: Path) -> Arch:
        """Sizes of the tensors; heads where the file has periods. Raises: CheckpointError: shapes of no such net."""
        dim, patch = vit_layout.patches(weights, path)
        reg, periods = weights.get("reg_token"), weights.get(PERIODS)
        fc1, fc2 = weights.get("blocks.0.mlp.fc1.weight"), weights.get("blocks.0.mlp.fc2.weight")
        hidden = fc1.shape[0] if fc1 is not None and fc1.ndim == 2 else 4 * dim
        swiglu = fc2 is not None and fc2.ndim == 2 and 2 * fc2.shape[1] == hidden
        biases = any(re.fullmatch(r"blocks\.\d+\.attn\.q_bias", key) for key in weights)
        heads = dim // (4 * len(periods)) if periods is not None and periods.ndim == 1 and len(periods) else 0
        if periods is not None and (not heads or dim != heads * 4 * len(periods)):
            wanted, got = "periods for a head width that divides the width", f"{tuple(periods.shape)} for {dim}"
            raise CheckpointError(wanted=wanted, got=got, where=path, do="name another file")
        details = {"qkv_bias": False} if not biases else {}
        return Arch(
            name="",
            kind=self.name,
            patch_size=patch,
            embed_dim=dim,
            depth=count(weights, "blocks.", limit=len(weights)),
            num_heads=heads,
            mlp_ratio=hidden / dim,
            img_size=224 if 224 % patch == 0 else 14 * patch,
            norm_eps=0.0,
            registers=reg.shape[1] if reg is not None and reg.ndim == 3 else 0,
            layer_scale=True,
            class_position=False,
            activation="silu" if swiglu else "",
            details=tuple(sorted((details | ({"swiglu": True} if swiglu else {})).items())),
        )

    def settle(self, stated: Arch | None, weights: Weights, path: Path) -> Arch:
        """What is stated, else what the tensors tell: they are compared by `shapes`."""
        return stated or self.read(weights, path)

    def name_of(self, arch: Arch) -> str:
        """As a ViT's, with what timm adds for its rotation."""
        return f"{vit_layout.name_of(arch).rpartition('_')[0]}_dinov3"

    def shapes(self, arch: Arch) -> Shapes:
        """In timm's names."""
        d, hidden = arch.embed_dim, round(arch.embed_dim * arch.mlp_ratio)
        inner = hidden // 2 if arch.detail("swiglu") else hidden
        shapes: Shapes = {
            "cls_token": (1, 1, d),
            "patch_embed.proj.weight": (d, 3, arch.patch_size, arch.patch_size),
            "patch_embed.proj.bias": (d,),
        }
        shapes |= {"reg_token": (1, arch.registers, d)} if arch.registers else {}
        block: Shapes = {f"{norm}.{part}": (d,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        block |= {"attn.qkv.weight": (3 * d, d), "gamma_1": (d,), "gamma_2": (d,)}
        block |= {"attn.q_bias": (d,), "attn.v_bias": (d,)} if arch.detail("qkv_bias", True) else {}
        for layer, (outs, ins) in {"attn.proj": (d, d), "mlp.fc1": (hidden, d), "mlp.fc2": (d, inner)}.items():
            block |= {f"{layer}.weight": (outs, ins), f"{layer}.bias": (outs,)}
        shapes |= {f"blocks.{i}.{key}": shape for i in range(arch.depth) for key, shape in block.items()}
        return shapes | {"norm.weight": (d,), "norm.bias": (d,)}

    def optional(self, arch: Arch) -> Shapes:
        """The periods of its rotation."""
        return {PERIODS: (arch.embed_dim // arch.num_heads // 4,)} if arch.num_heads else {PERIODS: ()}

    def of_model(self, arch: Arch, model: Any) -> Arch:
        """Heads, epsilon, activation, what it pools, and its size."""
        pool = "token" if model.global_pool == "token" else "avg"
        size = model.patch_embed.img_size[0]
        arch = replace(of_transformer(arch, model, model.blocks[0]), pool=pool, img_size=size)
        return replace(arch, name=self.name_of(arch))

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule | None) -> nn.Module:
        """The net, rotated by the file's periods where it has them, else by those of base 100.

        Raises: SettingsError: a version of timm that lacks this rotation.
        """
        if "rope_type" not in inspect.signature(Eva.__init__).parameters:
            raise SettingsError(wanted="timm 1.0.20 or later for DINOv3", got="an older one", where=arch.name,
                               do="pip install --upgrade timm")  # fmt: skip
        swiglu = bool(arch.detail("swiglu"))
        with undrawn():
            net = Eva(
                img_size=arch.img_size,
                patch_size=arch.patch_size,
                num_classes=0,
                global_pool="token",
                embed_dim=arch.embed_dim,
                depth=arch.depth,
                num_heads=arch.num_heads,
                qkv_bias=bool(arch.detail("qkv_bias", True)),
                mlp_ratio=arch.mlp_ratio / 2 if swiglu else arch.mlp_ratio,
                swiglu_mlp=swiglu,
                norm_layer=partial(nn.LayerNorm, eps=arch.norm_eps),
                init_values=1.0,
                num_reg_tokens=arch.registers,
                use_abs_pos_emb=False,
                use_rot_pos_emb=True,
                rope_type="dinov3",
                rope_temperature=BASE,
                rope_rotate_half=True,
                dynamic_img_size=True,
            )
        for block in net.blocks:
            block.mlp.act = activation(arch.activation)()
        kept = {k: t for k, t in weights.items() if k != PERIODS}
        net.load_state_dict(kept, strict=True, assign=True)
        if PERIODS in weights:
            net.rope.periods.copy_(weights[PERIODS])
        net.arch = arch
        return net  # type: ignore[no-any-return]

    def native_side(self, arch: Arch) -> int:
        """Any: rotations are computed for the size at hand."""
        return arch.img_size

    def check_images(self, arch: Arch, side: tuple[int, int], position: PositionRule | None) -> None:
        """At least one patch."""
        check_patches(arch, side)

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
        """Class token, registers and patches; the patches' queries and keys are rotated."""
        p = arch.patch_size
        h, w = images.shape[-2] // p, images.shape[-1] // p
        x = net.patch_embed.proj(images[..., : h * p, : w * p]).flatten(2).transpose(1, 2)
        first = [token.expand(len(x), -1, -1) for token in (net.cls_token, net.reg_token) if token is not None]
        x = torch.cat([*(token.to(x.dtype) for token in first), x], dim=1)
        rotation = net.rope.get_embed(shape=(h, w))
        kept = []
        for i, block in enumerate(net.blocks):
            x = block(x, rope=rotation)
            if i >= len(net.blocks) - last:
                kept.append(x)
        return kept, (h, w)

    def prefix(self, arch: Arch) -> int:
        """The class token and registers."""
        return 1 + arch.registers

    def class_attention(self, net: Any, arch: Arch) -> Sequence[nn.Module]:
        """Those of all blocks."""
        return [block.attn for block in net.blocks]

    def norm(self, net: Any, x: torch.Tensor) -> torch.Tensor:
        """The final LayerNorm."""
        normed: torch.Tensor = net.norm(x)
        return normed


KIND = EvaKind()
