"""timm's ViT block, with less memory traffic: gradients in the layout that is wanted, and the class token alone."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import vision_transformer
from torch import nn
from torch.nn import functional as F


class Attention(vision_transformer.Attention):  # type: ignore[name-defined,misc]
    """timm's attention; forward, the same operations on the same values.

    timm splits [3, B, heads, N, d], so its backward pass stacks the three gradients and then copies them into the order
    of the product, [B, N, 3, heads, d]. Here they are stacked in that order.
    """

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, **more: Any) -> torch.Tensor:
        """x [B, N, D] -> [B, N, D]."""
        if not self.fused_attn or attn_mask is not None or any(more.values()):
            out: torch.Tensor = super().forward(x, attn_mask=attn_mask, **more)
            return out
        q, k, v = self._heads(self.qkv(x), 3)
        return self._attended(q, k, v)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """What the first of the tokens x [B, N, D] attends to: [B, 1, D]."""
        width = self.qkv.weight.shape[0] // 3
        of_query, of_rest = self.qkv.weight.split([width, 2 * width])
        bias, rest_bias = (None, None) if self.qkv.bias is None else self.qkv.bias.split([width, 2 * width])
        (q,) = self._heads(F.linear(x[:, :1], of_query, bias), 1)
        k, v = self._heads(F.linear(x, of_rest, rest_bias), 2)
        return self._attended(q, k, v)

    def _heads(self, joined: torch.Tensor, parts: int) -> list[torch.Tensor]:
        """[B, N, parts * D] -> `parts` times [B, heads, N, d]."""
        split = joined.unflatten(-1, (parts, self.num_heads, self.head_dim)).unbind(2)
        return [part.transpose(1, 2) for part in split]

    def _attended(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        dropped = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped).transpose(1, 2).flatten(2)
        out: torch.Tensor = self.proj_drop(self.proj(x))
        return out


class Block(vision_transformer.Block):
    """timm's block, which can also compute its first token alone."""

    def forward(self, x: torch.Tensor, *args: Any, class_only: bool = False, **more: Any) -> torch.Tensor:
        """x [B, N, D] -> [B, N, D].

        Args: class_only: only the first token's output [B, 1, D]. The others are keys and values, no more: a last block
            whose patches nobody reads costs a fifth. Equal up to rounding, since products of other shapes round
            differently.
        """
        if not class_only:
            whole: torch.Tensor = super().forward(x, *args, **more)
            return whole
        first = x[:, :1] + self.drop_path1(self.ls1(self.attn.first(self.norm1(x))))
        out: torch.Tensor = first + self.drop_path2(self.ls2(self.mlp(self.norm2(first))))
        return out


def refine(block: nn.Module) -> None:
    """Make timm's block one of ours, with the same tensors of the same names; one of another kind stays as it is."""
    if type(block) is not vision_transformer.Block or type(block.attn) is not vision_transformer.Attention:
        return
    parts = (getattr(block.attn, name, None) for name in ("q_norm", "k_norm", "norm", "gate"))
    if all(part is None or isinstance(part, nn.Identity) for part in parts):
        block.__class__, block.attn.__class__ = Block, Attention
