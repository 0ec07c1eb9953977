"""The exp of votes: against 40 digits, and to the bit."""

from __future__ import annotations

import mpmath
import pytest
import torch

from evaltk.fixed_exp import BLOCK, exp


def test_within_a_unit_in_the_last_place() -> None:
    x = -torch.rand(3_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 30
    x = torch.cat([x, x * 23.6, x * 1e-3, x * 1e-18])
    with mpmath.workdps(40):
        for value, found in zip(x.tolist(), exp(x).tolist(), strict=True):
            wanted = mpmath.exp(value)
            assert abs(found - wanted) <= wanted * 2**-52


def test_ends() -> None:
    x = torch.tensor([[0.0, -0.0], [-708.5, -1e300]], dtype=torch.float64)
    assert exp(x).tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert exp(torch.zeros(0, 3)).shape == (0, 3)
    assert exp(torch.full((2,), -1.0)).dtype == torch.float64


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        (-1.0, "0x1.78b56362cef38p-2"),
        (-0.1, "0x1.cf46d99d52b3ap-1"),
        (-3.7, "0x1.9511fc6871044p-6"),
        (-14.25, "0x1.5baccf1932cc0p-21"),
        (-700.0, "0x1.14f2b0fb9307fp-1010"),
    ],
)
def test_bits(x: float, bits: str) -> None:
    """Equal to the bit, for it is made of operations that IEEE 754 rounds in one way; and so at every place."""
    assert exp(torch.full((BLOCK + 37,), x, dtype=torch.float64)).unique().tolist() == [float.fromhex(bits)]
    assert exp(torch.full((5, 3), x, dtype=torch.float64)[:, 1]).unique().tolist() == [float.fromhex(bits)]
