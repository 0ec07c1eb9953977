"""A net in memory, and calls of evaltk.evaluate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import evaltk

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


LOOKS: dict[str, Any] = {"crop": 16, **HALF}


FEW: dict[str, Any] = {"protocols": ("knn",), "settings": {"knn": {"k": (1, 5)}}, "limit": 40}


Build = Callable[..., Path]


class Net(nn.Module):
    """A small net with what behaves otherwise in training; `last` makes its output of the map [B, 8, 6, 6]."""

    def __init__(self, last: Callable[[torch.Tensor], Any] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 5, stride=2)
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.last = last or pooled
        self.seen: list[tuple[torch.device, torch.dtype, bool, bool]] = []

    def forward(self, x: torch.Tensor) -> Any:
        self.seen.append((x.device, x.dtype, self.training, torch.is_grad_enabled()))
        return self.last(self.drop(self.norm(self.conv(x))))


def pooled(x: torch.Tensor) -> torch.Tensor:
    return x.mean(dim=(2, 3))


def measured(model: Any, **more: Any) -> evaltk.api.results.Results:
    return evaltk.evaluate(model, "digits", **{"transform": LOOKS, **FEW, **more})


def top1(model: Any, **more: Any) -> float:
    return measured(model, **more).value("knn", "top1", k=5)
