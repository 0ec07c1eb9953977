"""Sums in an order that hangs on nothing but the length: the same digits on every processor, alone or in a batch.

A matrix product adds in the order that suits instruction set, shape and threads, so that equal rows may get results
that differ in their last bit. Here every operation is element by element, which IEEE 754 defines to the bit.
"""

from __future__ import annotations

import torch


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sums of a * b over the last dimension, float64 [...]; a, b [..., D] are broadcast against each other.

    Products of float32 values are exact in float64. They are added by halves, x[..., :n] + x[..., n:], n the largest
    power of two below the length: as if filled up with zeros to a power of two, however many of them.
    """
    x = a.double() * b.double()
    length = x.shape[-1]
    while length > 1:
        half = 1 << (length - 1).bit_length() - 1
        x[..., : length - half] += x[..., half:length]
        length = half
    return x[..., 0] if length else x.sum(dim=-1)
