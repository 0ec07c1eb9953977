"""XCiT (Cross-Covariance Image Transformer), built by timm; files of facebookresearch/xcit and DINO are renamed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaltk.errors import CheckpointError
from evaltk.models.kind import Kind, Weights, check_patches, count, timm_net
from evaltk.seeding import normal
from evaltk.types import Arch, PositionRule

XCITS = {  # (width, depth) -> name; the XCiT paper's table 1
    (128, 12): "nano_12",
    (192, 12): "tiny_12",
    (384, 12): "small_12",
    (192, 24): "tiny_24",
    (384, 24): "small_24",
    (512, 24): "medium_24",
    (768, 24): "large_24",
}


class XCiT(Kind):
    """See `Kind`. Heads are the length of a temperature; LayerNorms have epsilon 1e-6 in all published code."""

    name = "xcit"

    def recognises(self, weights: Weights) -> bool:
        """Blocks of class attention."""
        return any(key.startswith("cls_attn_blocks.") for key in weights)

    def rename(self, weights: Weights) -> dict[str, torch.Tensor]:
        """The original's names (as in DINO's files) to timm's; timm's own stay.

        Positions are called `pos_embeder` there, and class attention has one matrix for query, key and value.
        """
        out: dict[str, torch.Tensor] = {}
        for key, tensor in weights.items():
            joint = re.fullmatch(r"(cls_attn_blocks\.\d+\.attn\.)qkv\.(weight|bias)", key)
            if joint and tensor.ndim and tensor.shape[0] % 3 == 0:
                parts = zip("qkv", tensor.chunk(3), strict=True)
                out |= {f"{joint[1]}{part}.{joint[2]}": t for part, t in parts}
            else:
                out[re.sub(r"^pos_embeder\.", "pos_embed.", key)] = tensor
        return out

    def read(self, weights: Weights, path: Path) -> Arch:
        """By width, depth and stages of the patch embedding. Raises: CheckpointError: none of the published sizes."""
        token, temperature = weights.get("cls_token"), weights.get("blocks.0.attn.temperature")
        dim = token.shape[-1] if token is not None and token.ndim else 0
        depth = count(weights, "blocks.")
        stages = (1 + count(weights, "patch_embed.proj.")) // 2  # convolutions, with activations between them
        size = XCITS.get((dim, depth))
        if size is None or stages not in (3, 4) or temperature is None or not temperature.ndim:
            raise CheckpointError(
                wanted="a published XCiT",
                got=f"width {dim}, depth {depth}, {stages} stages of patch embedding",
                where=path,
                do="name another file",
            )
        return Arch(
            name=f"xcit_{size}_p{2**stages}_224",
            kind=self.name,
            patch_size=2**stages,
            embed_dim=dim,
            depth=depth,
            num_heads=len(temperature),
            mlp_ratio=4.0,
            img_size=224,
            norm_eps=1e-6,
        )

    def random_weights(self, name: str, seed: int) -> dict[str, torch.Tensor] | None:
        """Distributed as timm's own, from draws that are the same bits on every processor: the cache is named by them.

        Linear layers and the class token are normal of std 0.02, convolutions and their biases uniform within
        1 / sqrt(inputs of a kernel); what is not drawn stays as timm has it.
        """
        if name not in {f"xcit_{size}_p{patch}_224" for size in XCITS.values() for patch in (8, 16)}:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = timm_net(name)
        _redraw(net, torch.Generator().manual_seed(seed))
        return {k: t.clone() for k, t in net.state_dict().items()}

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule | None) -> nn.Module:
        """`forward_features` ends before the final norm, as a ViT's blocks do; the norm is the net's `final_norm`."""
        net: Any = super().build(arch, weights, position=position)
        net.final_norm, net.norm = net.norm, nn.Identity()
        return net  # type: ignore[no-any-return]

    def check_images(self, arch: Arch, side: tuple[int, int], position: PositionRule | None) -> None:
        """At least one patch."""
        check_patches(arch, side)

    def blocks(
        self, net: Any, arch: Arch, images: torch.Tensor, *, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """The last block of class attention; its padded convolutions round the grid up."""
        grid = (-(-images.shape[-2] // arch.patch_size), -(-images.shape[-1] // arch.patch_size))
        return [net.forward_features(images)], grid

    def class_attention(self, net: Any, arch: Arch) -> Sequence[nn.Module]:
        """Those of the blocks of class attention."""
        return [block.attn for block in net.cls_attn_blocks]

    def norm(self, net: Any, x: torch.Tensor) -> torch.Tensor:
        """The LayerNorm set apart by `build`."""
        normed: torch.Tensor = net.final_norm(x)
        return normed


@torch.no_grad()
def _redraw(net: nn.Module, draw: torch.Generator) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(normal(*layer.weight.shape, std=0.02, generator=draw))
        elif isinstance(layer, nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for part in (layer.weight, layer.bias):
                if part is not None:
                    part.copy_((2 * torch.rand(part.shape, dtype=torch.float64, generator=draw) - 1) * bound)
    token = net.get_parameter("cls_token")
    token.copy_(normal(*token.shape, std=0.02, generator=draw))


KIND = XCiT()
