"""Inner products whose bits depend on the two rows only, not on the processor, threads or batch shape.

A library's matrix product sums in an order that depends on instruction set, threads and position in the matrix, so
equal rows can get products that differ in the last bit. `dot` uses elementwise IEEE operations in an order fixed by the
row length. `matmul` splits its inputs so finely that no sum is rounded, so the order does not matter. `product_error`
bounds the error of an ordinary product.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from evaltk import spread

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
SCRATCH = {"cpu": 1 << 19, "cuda": 1 << 25}  # elements per pass (CPU: one core's cache); does not affect results


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products float64 [...] of a [..., D] and b [..., D] (which broadcast) over the last dimension.

    Products of float32 values are exact in float64. They are summed by halves, x[:n] + x[n:] with n the largest power
    of two below the length, as if zero-padded to a power of two. Error at most log2(D) 2^-53 |a||b|.
    """
    return _halve(a.double() * b.double())


def norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norms float64 [N] of the rows of x [N, D]; no finite float32 overflows."""
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)

    def fill(rows: slice) -> None:
        wide = x[rows].double()
        out[rows] = _halve(wide.mul_(wide)).sqrt_()

    over_rows(fill, x)
    return out


def pair_dots(a: torch.Tensor, i: torch.Tensor, b: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Inner products float64 [n] of rows i [n] of a [A, D] with rows j [n] of b [B, D]; see `dot`."""
    out = torch.empty(len(i), dtype=torch.float64, device=a.device)

    def fill(pairs: slice) -> None:
        left = a.index_select(0, i[pairs]).double()
        out[pairs] = _halve(left.mul_(b.index_select(0, j[pairs])))

    over_rows(fill, i, a.shape[1])
    return out


def over_rows(task: Callable[[slice], None], x: torch.Tensor, dim: int | None = None) -> None:
    """Call task(rows) for slices of the rows of x, each as many rows of `dim` elements as fit the scratch memory."""
    step = max(1, SCRATCH.get(x.device.type, SCRATCH["cpu"]) // max(dim or x.shape[-1], 1))
    slices = [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]
    spread.each(task, slices, x.device)


def _halve(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, float64 [...], overwriting x; zero where that dimension is empty."""
    length = x.shape[-1]
    if not length:
        return x.new_zeros(x.shape[:-1])
    while length > 1:
        half = 1 << (length - 1).bit_length() - 1  # the largest power of two below the length
        x[..., : length - half] += x[..., half:length]
        length = half
    return x[..., 0]


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [N, D] @ b [D, M] as float64 [N, M]; equal rows of a give equal rows, whatever their position.

    Each row of a and column of b is scaled by a power of two and split into a high and a low part with few enough bits
    that all sums of high-high, high-low and low-high products are exact, so any GEMM gives the same bits. With e bits
    per part, 2 e = 52 - log2(D), an entry is within D 2^(1 - 2 e) of the exact one, relative to the largest values of
    its row and column.
    Source: Ozaki et al., Numer. Algorithms 59, 2012 (the splitting).
    """
    bits = (52 - math.ceil(math.log2(max(a.shape[1], 1)))) // 2
    (a_high, a_low, a_scale), (b_high, b_low, b_scale) = _split(a, 1, bits), _split(b, 0, bits)
    high, mixed, other = a_high @ b_high, a_high @ b_low, a_low @ b_high
    return (high + (mixed + other)) * a_scale * b_scale


def _split(x: torch.Tensor, dim: int, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(high, low, scale): x / scale = high + low up to 2^(-2 bits); multiples of 2^-bits and of 2^(-2 bits)."""
    x = x.double()
    largest = x.abs().amax(dim=dim, keepdim=True)
    # An exact power of two; ldexp uses pow, which some vector libraries round.
    scale = torch.where(largest > 0, largest / torch.frexp(largest).mantissa, 1.0)
    x = x / scale  # |x| < 1
    high = torch.round(x * 2.0**bits) * 2.0**-bits
    low = torch.round((x - high) * 2.0 ** (2 * bits)) * 2.0 ** (-2 * bits)
    return high, low, scale


def product_error(dim: int, dtype: torch.dtype) -> float:
    """Bound on |computed - exact| for the inner product of two unit rows of `dim` elements, each rounded to `dtype`.

    Summation in any order is off by at most gamma_n = n u / (1 - n u) times |a||b|, u the unit roundoff. Dividing each
    row by its norm adds one term, and each norm, which may be summed in `dtype` too, gamma_D / 2 and one more. u is
    doubled for hardware that truncates.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
    """
    terms = (2 * dim + 8) * 2 * UNIT_ROUNDOFF[dtype]
    return terms / (1 - terms) if terms < 1 else math.inf


def full_precision(device: str) -> bool:
    """Whether float32 matrix products on the device use all 24 bits, i.e. neither TF32 nor bfloat16 is enabled."""
    backend = torch.backends.cuda if device.startswith("cuda") else torch.backends.mkldnn
    own = getattr(getattr(backend, "matmul", None), "fp32_precision", "none")  # the setting of torch >= 2.9
    if own not in ("none", "ieee"):
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # both the old and the new setting were used; only the new one is reliable
        return own == "ieee"
