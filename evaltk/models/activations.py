"""Activations by the names that flags and configurations use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from timm.layers.activations import QuickGELU
from torch import nn

from evaltk.types import Activation

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
