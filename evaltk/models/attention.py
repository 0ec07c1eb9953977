"""Attention of the class token to the patches; fused attention gives no weights, so those of one block are computed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from evaltk.errors import SettingsError
from evaltk.models.backbone import Backbone, numerics


def layers(backbone: Backbone) -> list[nn.Module]:
    """The attention modules whose first query is the class token (or the query of an attention pool), in order.

    Empty where no token attends to the patches for the class: nets that pool the mean, convolutional and windowed ones.
    """
    return list(backbone.kind.class_attention(backbone.net, backbone.arch))


@torch.no_grad()
def class_attention(backbone: Backbone, images: torch.Tensor, *, block: int | None = None) -> torch.Tensor:
    """What the class token attends to among the patches, by head.

    The softmax runs over all tokens; the columns of the class token and of registers are left out afterwards and the
    rest is not rescaled (dino/visualize_attention.py:174-177), so a map sums to at most 1.

    Args:
        images: [B, 3, H, W], normalised, of any size that the net takes.
        block: 1 is the first of `layers`; None: the last.

    Returns: [B, heads, h, w] float32, in [0, 1], on the backbone's device.
    Raises: SettingsError: the net has no such attention, or no such block.
    """
    found = layers(backbone)
    if not found:
        raise SettingsError(
            wanted="a net whose class token attends to patches",
            got=f"a {backbone.arch.kind} that pools {backbone.arch.pool}",
            where=backbone.arch.name,
            do="look at its patches instead: they have no such maps",
        )
    number = len(found) if block is None else block
    if not 1 <= number <= len(found):
        wanted = f"a block from 1 to {len(found)}"
        raise SettingsError(wanted=wanted, got=str(block), where="--block", do=f"--block {len(found)}")
    mode = _Weights()
    target = found[number - 1]
    handles = [
        target.register_forward_pre_hook(lambda *_: mode.listen(True)),
        target.register_forward_hook(lambda *_: mode.listen(False)),
    ]
    try:
        with numerics(backbone.device, backbone.precision), mode:
            backbone.kind.check_images(backbone.arch, (images.shape[-2], images.shape[-1]), backbone.position)
            x, grid = backbone.kind.blocks(backbone.net, backbone.arch, images.to(backbone.device), last=1, mask=None)
            if mode.weights is None and backbone.arch.pool == "map":  # it attends to what the last block gives
                backbone.kind.pooled(backbone.net, backbone.arch, x[-1], norm=True)
    finally:
        for handle in handles:
            handle.remove()
    if mode.weights is None:
        raise RuntimeError(f"{type(target).__name__} computes attention in a way that is not known here")
    return mode.weights[..., -math.prod(grid) :].unflatten(-1, grid)


class _Weights(TorchFunctionMode):
    """Keeps the weights of the first query of the attention that is computed while it listens: [B, heads, tokens]."""

    def __init__(self) -> None:
        super().__init__()
        self.listening = False
        self.weights: torch.Tensor | None = None

    def listen(self, on: bool) -> None:
        self.listening = on

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if self.listening and func is F.scaled_dot_product_attention:
            self.weights = _first_query(*args, **given)
        found = func(*args, **given)
        if self.listening and func in (torch.Tensor.softmax, torch.softmax, F.softmax):
            self.weights = found[:, :, 0].float()
        return found


def _first_query(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """softmax(q k' scale + mask) of the first query: query [B, heads, N, d], key [B, heads, M, d] -> [B, heads, M]."""
    first = query[:, :, :1].float()
    logits = first @ key.float().transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        logits = logits + attn_mask[..., :1, :].float()
    return logits.softmax(dim=-1)[:, :, 0]


def keep_mass(attention: torch.Tensor, mass: float) -> torch.Tensor:
    """The patches that hold the largest share `mass` of each map, as DINO's pictures of thresholded attention show it.

    Values are sorted rising and divided by their sum; a patch is kept where the running sum up to and including it is
    above 1 - mass (dino/visualize_attention.py:180-188).

    Args:
        attention: [..., h, w], not negative. mass: in (0, 1].

    Returns: bool [..., h, w].

    >>> keep_mass(torch.tensor([[0.1, 0.2], [0.3, 0.4]]), 0.6)
    tensor([[False, False],
            [ True,  True]])
    """
    flat = attention.double().flatten(-2)
    values, order = flat.sort(dim=-1, stable=True)
    share = (values / values.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    kept = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, share > 1 - mass)
    return kept.unflatten(-1, attention.shape[-2:])
