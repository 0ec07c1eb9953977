"""Inner products whose digits depend on the two rows alone: not on the processor, the threads, or the shape of a batch.

A matrix product adds in an order that its library picks by instruction set, number of threads, and place in the matrix,
so two equal rows can get products that differ in the last bit. `dot` uses elementwise IEEE operations only, in an order
that the length of the rows decides. `matmul` splits its inputs so finely that no sum is ever rounded: the order cannot
matter. `product_error` bounds what an ordinary product may be off by.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from evaltk import spread

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
SCRATCH = {"cpu": 1 << 19, "cuda": 1 << 25}  # numbers at a time: what a core's cache holds; it changes no result


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products over the last dimension, float64 [...], of a [..., D] and b [..., D], which broadcast.

    Products of float32 values are exact in float64. They are added by halves, x[:n] + x[n:], n the largest power of two
    below the length, as if filled up with zeros to a power of two. Within log2(D) 2^-53 |a||b| of the exact value.
    """
    return _halve(a.double() * b.double())


def norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norms of x [N, D] over the last dimension: float64 [N]. Any finite float32 is in range."""
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)

    def some(rows: slice) -> None:
        part = x[rows].double()
        out[rows] = _halve(part.mul_(part)).sqrt_()

    over_rows(some, x)
    return out


def pair_dots(a: torch.Tensor, i: torch.Tensor, b: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Inner products float64 [n] of the rows i [n] of a [A, D] and j [n] of b [B, D]; see `dot`."""
    out = torch.empty(len(i), dtype=torch.float64, device=a.device)

    def some(rows: slice) -> None:
        left = a.index_select(0, i[rows]).double()
        out[rows] = _halve(left.mul_(b.index_select(0, j[rows])))

    over_rows(some, i, a.shape[1])
    return out


def over_rows(task: Callable[[slice], None], x: torch.Tensor, dim: int | None = None) -> None:
    """Call task(rows) for slices of the rows of x: as many rows of `dim` numbers as fit a device's scratch memory."""
    step = max(1, SCRATCH.get(x.device.type, SCRATCH["cpu"]) // max(dim or x.shape[-1], 1))
    slices = [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]
    spread.each(task, slices, x.device)


def _halve(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, in place, float64 [...]; zero where that dimension is empty."""
    length = x.shape[-1]
    if not length:
        return x.new_zeros(x.shape[:-1])
    while length > 1:
        half = 1 << (length - 1).bit_length() - 1  # the largest power of two below the length
        x[..., : length - half] += x[..., half:length]
        length = half
    return x[..., 0]


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [N, D] @ b [D, M] in float64 [N, M]: equal rows of a give equal rows, wherever they stand.

    Each row of a and column of b is scaled by a power of two and cut into a high and a low part of few enough bits for
    all sums of high-high, high-low and low-high products to be exact (the splitting of Ozaki et al., Numer. Algorithms
    59, 2012), so any product routine gives the same bits. With e bits a part, 2 e = 52 - log2(D), an entry is within
    D 2^(1 - 2 e) of the exact one, in units of its row's and column's largest values.
    """
    bits = (52 - math.ceil(math.log2(max(a.shape[1], 1)))) // 2
    (a_high, a_low, a_scale), (b_high, b_low, b_scale) = _split(a, 1, bits), _split(b, 0, bits)
    high, mixed, other = a_high @ b_high, a_high @ b_low, a_low @ b_high
    return (high + (mixed + other)) * a_scale * b_scale


def _split(x: torch.Tensor, dim: int, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x / scale = high + low + less than 2^(-2 bits), multiples of 2^-bits and of 2^(-2 bits), and the scale."""
    x = x.double()
    largest = x.abs().amax(dim=dim, keepdim=True)
    # A power of two, exactly; ldexp goes through pow, which some vector libraries round.
    scale = torch.where(largest > 0, largest / torch.frexp(largest).mantissa, 1.0)
    x = x / scale  # |x| < 1
    high = torch.round(x * 2.0**bits) * 2.0**-bits
    low = torch.round((x - high) * 2.0 ** (2 * bits)) * 2.0 ** (-2 * bits)
    return high, low, scale


def product_error(dim: int, dtype: torch.dtype) -> float:
    """Bound on |computed - exact| of the inner product of two unit rows of `dim` numbers, each rounded to `dtype`.

    Adding in any order errs by at most gamma_n = n u / (1 - n u) times |a||b| (Higham, Accuracy and Stability of
    Numerical Algorithms, 2nd ed., section 3.1), u the unit roundoff; one more term for the division of each row, and
    gamma_D / 2 with one term more for each norm, which may be summed in `dtype` too. Twice u, for units that truncate.
    """
    terms = (2 * dim + 8) * 2 * UNIT_ROUNDOFF[dtype]
    return terms / (1 - terms) if terms < 1 else math.inf


def full_precision(device: str) -> bool:
    """Whether float32 products on the device use all 24 bits: neither TF32 nor bfloat16 was asked for."""
    backend = torch.backends.cuda if device.startswith("cuda") else torch.backends.mkldnn
    own = getattr(getattr(backend, "matmul", None), "fp32_precision", "none")  # the setting of torch >= 2.9
    if own not in ("none", "ieee"):
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # both kinds of setting were used: only the new one can be trusted
        return own == "ieee"
