"""Normalised tokens that are equal whenever their inputs are; error bound of their products; grouping of equal ones."""

from __future__ import annotations

import torch

from evaltk import fixed_order

PRODUCTS = 1 << 17  # float64 products at a time when similarities are recomputed; fits a core's cache


def unit(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens [..., D] divided by their norm, float32; equal tokens stay equal on every processor, zeros stay zeros.

    The relative error of each value is at most 2^-24, plus float64 rounding.
    """
    norm = fixed_order.dot(tokens, tokens).sqrt_().clamp_min_(1e-12)
    return tokens.double().div_(norm.unsqueeze(-1)).float()


def doubt(dim: int) -> float:
    """Error bound of a float32 inner product of two unit tokens [D], for any order of summation.

    |fl(x.y) - x.y| <= gamma_D |x| |y|, gamma_n = n u / (1 - n u), u = 2^-24. The last factor accounts for norms that
    are not exactly 1, and for underflow. Source: Higham, Accuracy and Stability of Numerical Algorithms, 3.1.
    """
    bound = dim * 2.0**-24
    return bound / (1 - bound) * (1 + 2.0**-20)


def first_equal(rows: torch.Tensor) -> torch.Tensor:
    """[n] int64: for each of rows [n, D] float32 the index of a row equal to it, nearly always the first one.

    Rows are hashed by a random linear sum of their bits and compared with the first row of the same hash; a row that
    differs from it (a collision) gets its own index.
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
