"""Activations by the names that flags and configurations use, and what a net of timm's in memory has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers.activations import GELUTanh, QuickGELU
from torch import nn

from evaltk.types import Activation, Arch

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "quickgelu": QuickGELU,  # x * sigmoid(1.702 x), OpenAI's CLIP
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "relu": nn.ReLU,
}


def activation(name: str) -> Callable[[], nn.Module]:
    """The module that a name stands for. Raises: KeyError: none."""
    return {str(key): module for key, module in ACTIVATIONS.items()}[name]


def of_transformer(arch: Arch, model: Any, block: Any) -> Arch:
    """`arch` with the heads, epsilon and activation of timm's model in memory, of which this is a block."""
    norm = model.norm if hasattr(model.norm, "eps") else getattr(model, "fc_norm", model.norm)
    act = block.mlp.act
    names = {nn.GELU: "gelu", nn.SiLU: "silu", nn.ReLU: "relu", QuickGELU: "quickgelu", GELUTanh: "gelu_tanh"}
    name = "gelu_tanh" if getattr(act, "approximate", "none") == "tanh" else names.get(type(act), arch.activation)
    heads = arch.num_heads or block.attn.num_heads
    return replace(arch, num_heads=heads, norm_eps=getattr(norm, "eps", 1e-6), activation=name or "gelu")
