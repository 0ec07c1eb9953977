"""exp from additions and multiplications only, so that its bits are the same on every processor.

Vector libraries have a different exp for each processor and may round the same value differently depending on its
position in the tensor, which would make two equal votes unequal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LN2_HIGH = float.fromhex("0x1.62E42FEFA38p-1")  # 42 bits: its product with an integer below 2^11 is exact
LN2_LOW = float.fromhex("0x1.EF35793C7673p-45")
TERMS = [1 / math.factorial(n) for n in range(14)]  # the next term is below 2^-57 for |r| <= ln(2) / 2
LEAST = -708.0  # below it exp(x) is denormal; we return 0
BLOCK = 1 << 14  # elements per pass; fits the L1/L2 cache


def exp(x: Tensor) -> Tensor:
    """exp(x) as float64 [...] for x [...] <= 0, within one unit in the last place; 0 where x < -708."""
    out = x.double().flatten().clone()
    for block in out.split(BLOCK):
        _exp(block)
    return out.view(x.shape)


def _exp(x: Tensor) -> None:
    """exp of x [n] float64, in place: exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2."""
    low = x < LEAST
    x.clamp_(min=LEAST)
    n = (x * (1 / math.log(2))).round_()
    r = x - n * LN2_HIGH - n * LN2_LOW
    x.fill_(TERMS[-1])
    for term in TERMS[-2::-1]:  # one operation at a time: a fused multiply-add rounds differently
        x.mul_(r).add_(term)
    power = ((n.long() + 1023) << 52).view(torch.float64)  # 2^n from its exponent bits
    x.mul_(power).masked_fill_(low, 0.0)
