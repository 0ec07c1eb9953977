"""Unit tokens: equal ones stay equal on any processor; how far off their products may be; which of them are equal."""

from __future__ import annotations

import torch

from evaltk import fixed_order

PRODUCTS = 1 << 17  # float64 products at a time when similarities are made again: they stay in a core's cache


def unit(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens [..., D] divided by their norm, float32: equal ones stay equal on any processor; zeros stay zeros.

    Each value is within a relative 2^-24 (and a little of float64) of the true quotient.
    """
    norm = fixed_order.dot(tokens, tokens).sqrt_().clamp_min_(1e-12)
    return tokens.double().div_(norm.unsqueeze(-1)).float()


def doubt(dim: int) -> float:
    """What the float32 product of two unit tokens [D] may be off by, in whatever order it adds.

    |fl(x.y) - x.y| <= gamma_D |x| |y|, gamma_n = n u / (1 - n u), u = 2^-24: Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1. The last factor is for norms not quite 1, and for underflow.
    """
    bound = dim * 2.0**-24
    return bound / (1 - bound) * (1 + 2.0**-20)


def first_equal(rows: torch.Tensor) -> torch.Tensor:
    """[n] int64: for each of rows [n, D] float32, one that is equal to it, the same for nearly all that are equal.

    Rows are told apart by a sum of their bits, then compared with the first of the same sum; one that differs from it
    stands for itself.
    """
    num, dim = rows.shape
    draw = torch.Generator().manual_seed(0)
    factors = torch.randint(-(1 << 62), 1 << 62, (dim,), generator=draw).to(rows.device)
    size = max(1, PRODUCTS // dim)
    sums = torch.cat([(part.long() * factors).sum(dim=1) for part in rows.view(torch.int32).split(size)])
    values, place = sums.unique(return_inverse=True)
    itself = torch.arange(num, device=rows.device)
    first = torch.full_like(values, num).scatter_reduce_(0, place, itself, "amin")[place]
    pairs = zip(rows.split(size), first.split(size), strict=True)
    same = torch.cat([(part == rows[at]).all(dim=1) for part, at in pairs])
    return torch.where(same, first, itself)
