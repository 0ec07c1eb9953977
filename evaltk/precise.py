"""Float32 products in full, whatever the process allows: TF32 keeps 10 bits of a factor, bfloat16 7."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products(device: torch.device) -> Iterator[None]:
    """Matrix products inside are float32 in full, without autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
