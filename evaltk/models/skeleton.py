"""Nets as skeletons: built on the meta device, without memory and without drawing weights that are replaced anyway."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """What is built inside has shapes but no values. Whatever timm reads while it builds has its values."""
    with torch.device("meta"), _RatesAreRead():
        yield


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """What is built inside has memory and its own constants; the global random stream is where it was afterwards.

    For nets with buffers that are computed while they are built.
    """
    with torch.random.fork_rng(devices=[]):
        yield


class _RatesAreRead(TorchFunctionMode):
    """timm before 1.0.21 reads the rates of stochastic depth from `torch.linspace`, which is kept on the CPU."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if function is torch.linspace:
            given.setdefault("device", "cpu")
        return function(*args, **given)
