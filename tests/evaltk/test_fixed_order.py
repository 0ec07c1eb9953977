"""Inner products against exact fractions, and to the bit wherever a row stands."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from evaltk import fixed_order

DIMS = [1, 2, 3, 7, 48, 384, 2048]


def rows(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def exact(a: torch.Tensor, b: torch.Tensor) -> Fraction:
    return sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))


@pytest.mark.parametrize("dim", DIMS)
def test_dot_is_within_its_bound_of_the_exact_sum(dim: int) -> None:
    a, b = rows(4, dim), rows(4, dim, 1)
    for found, x, y in zip(fixed_order.dot(a, b).tolist(), a, b, strict=True):
        size = float(x.double().norm() * y.double().norm())
        assert abs(found - float(exact(x, y))) <= (math.log2(dim) + 1) * 2**-53 * size


def test_dot_halves() -> None:
    # 2^53 + 1 is not a float64: which sums are rounded shows the order. (1 + 0) + (2^53 + 1), the middle one last.
    a = torch.tensor([1.0, 2.0**53, 1.0], dtype=torch.float64)
    assert fixed_order.dot(a, torch.ones(3)).item() == 2.0**53 + 2  # 1 + 1 first
    a = torch.tensor([1.0, 1.0, 2.0**53], dtype=torch.float64)
    assert fixed_order.dot(a, torch.ones(3)).item() == 2.0**53  # (1 + 2^53) + 1, each rounded to even
    assert fixed_order.dot(torch.empty(2, 0), torch.empty(2, 0)).tolist() == [0, 0]


@pytest.mark.parametrize("dim", DIMS)
def test_a_pair_has_one_product_wherever_it_stands(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rows(5, dim).repeat(40, 1), rows(3, dim, 1).repeat(7, 1)
    i, j = torch.randint(200, (700,)), torch.randint(21, (700,))
    expected = fixed_order.dot(a[:5, None], b[:3])  # [5, 3]
    for scratch in (1 << 19, 4 * dim, 1):
        monkeypatch.setitem(fixed_order.SCRATCH, "cpu", scratch)
        assert torch.equal(fixed_order.pair_dots(a, i, b, j), expected[i % 5, j % 3])
        assert torch.equal(fixed_order.norm(a), fixed_order.dot(a[:5], a[:5]).sqrt().repeat(40))


def test_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fixed_order.SCRATCH, "cpu", 512)
    a, i = rows(50, 16), torch.randint(50, (400,))
    before, found = torch.get_num_threads(), []
    try:
        for num in (1, 2, 3):
            torch.set_num_threads(num)
            found.append(fixed_order.pair_dots(a, i, a, i.flip(0)))
            assert torch.get_num_threads() == num
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e30, 1e38])
def test_norms_of_any_float32(scale: float) -> None:
    x = torch.tensor([[3.0, 4.0]]) * scale
    expected = math.hypot(*x[0].tolist())
    assert fixed_order.norm(x).item() == pytest.approx(expected, rel=1e-15) and expected > 0


@pytest.mark.parametrize("dim", [1, 5, 384, 2048])
def test_matmul_rounds_equal_rows_alike(dim: int) -> None:
    a, b = rows(11, dim), rows(dim, 6, 1) * torch.tensor([1e-6, 1.0, 1e3, 1e-3, 7.0, 1e5])
    whole = fixed_order.matmul(a, b)
    torch.testing.assert_close(whole, a.double() @ b.double(), rtol=0, atol=1e-10 * dim * float(b.abs().max()))
    relative = (whole - a.double() @ b.double()).abs() / (a.abs().amax(1, keepdim=True) * b.abs().amax(0))
    assert float(relative.max()) < dim * 2.0 ** (1 - 2 * ((52 - math.ceil(math.log2(dim))) // 2))
    repeated = fixed_order.matmul(a.repeat(30, 1), b)
    assert torch.equal(repeated, whole.repeat(30, 1))
    for row, expected in zip(a, whole, strict=True):
        assert torch.equal(fixed_order.matmul(row[None], b)[0], expected)
    order = torch.randperm(dim)  # no sum is rounded, so its order cannot matter
    assert torch.equal(fixed_order.matmul(a[:, order], b[order]), whole)
    assert torch.equal(fixed_order.matmul(torch.zeros(2, dim), b), torch.zeros(2, 6, dtype=torch.float64))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_holds(dim: int, dtype: torch.dtype) -> None:
    """Sums in the worst order there is (one after the other, all terms of one sign) stay within it."""
    a, b = rows(20, dim).abs(), rows(20, dim, 1).abs()
    unit = [(x.double() / fixed_order.norm(x)[:, None]).to(dtype) for x in (a, b)]
    for products in ((unit[0] * unit[1]).cumsum(dim=1)[:, -1], (unit[0] @ unit[1].T).diagonal()):
        cosine = fixed_order.dot(a, b) / (fixed_order.norm(a) * fixed_order.norm(b))
        assert float((products.double() - cosine).abs().max()) <= fixed_order.product_error(dim, dtype)
    assert fixed_order.product_error(10**8, torch.float32) == math.inf


def test_lower_precision_is_seen() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert fixed_order.full_precision("cpu") and fixed_order.full_precision("cuda:1")
        for precision in ("high", "medium"):
            torch.set_float32_matmul_precision(precision)
            assert not fixed_order.full_precision("cpu") and not fixed_order.full_precision("cuda")
    finally:
        torch.set_float32_matmul_precision(before)


def test_numpy_agrees() -> None:
    a, b = rows(30, 384), rows(30, 384, 1)
    expected = np.einsum("nd,nd->n", a.numpy().astype(np.float64), b.numpy().astype(np.float64))
    np.testing.assert_allclose(fixed_order.dot(a, b).numpy(), expected, rtol=0, atol=1e-12)
