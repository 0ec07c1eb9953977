"""Small values to a device without waiting for it: a blocking copy would wait for all that it has still to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def sent(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers, nested lists of any shape, as a tensor on the device."""
    return to_device(torch.tensor(values, dtype=dtype), device)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; from page-locked memory where it is CUDA, so that the host goes on at once."""
    if device.type == "cuda" and x.device.type == "cpu" and torch.cuda.is_available():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
