"""Vectors whose products are exact: small whole numbers."""

from __future__ import annotations

import torch


def integers(num_rows: int, dim: int, seed: int, *, levels: int = 2) -> torch.Tensor:
    """Small whole numbers: their dot products are exact in float32, so that equal ones are equal to the bit."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-levels, levels + 1, (num_rows, dim), generator=draw).float()
