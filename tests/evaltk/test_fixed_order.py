"""Sums by halves: of any length, alone or in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaltk import fixed_order


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 8, 13])
def test_halves_are_added_as_if_filled_up_with_zeros(length: int) -> None:
    draw = torch.Generator().manual_seed(length)
    a, b = (torch.randn(7, length, generator=draw) for _ in range(2))
    padded = [torch.cat([x, torch.zeros(7, 32 - length)], dim=1).double().numpy() for x in (a, b)]
    total = padded[0] * padded[1]
    while total.shape[1] > 1:
        total = total[:, : total.shape[1] // 2] + total[:, total.shape[1] // 2 :]
    np.testing.assert_array_equal(fixed_order.dot(a, b).numpy(), total[:, 0])
    assert torch.equal(fixed_order.dot(a[:, None], b)[3, 2], fixed_order.dot(a[3], b[2]))
