"""Float32 products in full, whatever the process allows: TF32 keeps 10 bits of a factor, bfloat16 7."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def products(device: torch.device) -> Iterator[None]:
    """Inside, matrix products use full float32, without autocast; the process's settings are restored afterwards."""
    restore = _full_precision()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for owner, name, value in restore:
            owner(value) if name is None else setattr(owner, name, value)


def _full_precision() -> list[tuple[Any, str | None, str]]:
    """Ask for full float32 products. Returns: what to set again, as (setter, None, value) or (object, name, value)."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # a backend was set by the settings of torch >= 2.9, which the older function refuses to read
        backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
        restore: list[tuple[Any, str | None, str]] = [(b, "fp32_precision", b.fp32_precision) for b in backends]
        for backend in backends:
            backend.fp32_precision = "ieee"
        return restore
    torch.set_float32_matmul_precision("highest")
    return [(torch.set_float32_matmul_precision, None, before)]
