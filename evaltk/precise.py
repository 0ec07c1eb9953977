"""Full float32 matrix products, whatever the process allows: TF32 keeps 10 mantissa bits, bfloat16 7."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products(device: torch.device) -> Iterator[None]:
    """Inside, matrix products use full float32, without autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
