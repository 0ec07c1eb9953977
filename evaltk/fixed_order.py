"""Sums in an order that is written down here, so that they have the same bits on every processor.

A library's sum or matrix product adds in the order that its vector units, blocks and threads suggest. Here float64
products are halved and added, half to half, until one is left: single operations, which IEEE 754 rounds in one way.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [...] float64 of a [..., D] and b [..., D]."""
    x = a.double() * b.double()
    if not x.shape[-1]:
        return x.sum(dim=-1)
    while (n := x.shape[-1]) > 1:
        half = n // 2
        pairs = x[..., :half] + x[..., half : 2 * half]
        x = torch.cat([pairs, x[..., 2 * half :]], dim=-1) if n % 2 else pairs
    return x[..., 0]
