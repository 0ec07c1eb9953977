"""exp made of additions, multiplications and nothing else, so that it has the same bits on every processor.

Vector libraries have an exp of their own for each kind of processor, and may round one value in two ways by where it
stands: two equal votes would then be parted by their place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LN2_HIGH = float.fromhex("0x1.62E42FEFA38p-1")  # of 42 bits: times a whole number below 2^11 it is exact
LN2_LOW = float.fromhex("0x1.EF35793C7673p-45")
TERMS = [1 / math.factorial(n) for n in range(14)]  # the next is below 2^-57 where |r| <= ln(2) / 2
LEAST = -708.0  # below it exp is no normal number, and 0 here


BLOCK = 1 << 14  # elements at a time: few enough for a processor's nearest cache


def exp(x: Tensor) -> Tensor:
    """exp(x) [...] float64 of x [...] <= 0; within a unit in the last place, 0 where x < -708."""
    made = x.double().flatten().clone()
    for block in made.split(BLOCK):
        _exp(block)
    return made.view(x.shape)


def _exp(x: Tensor) -> None:
    """exp(x) [n] float64 in the place of x."""
    low = x < LEAST
    x.clamp_(min=LEAST)
    whole = (x * (1 / math.log(2))).round_()
    rest = x - whole * LN2_HIGH - whole * LN2_LOW
    x.fill_(TERMS[-1])
    for term in TERMS[-2::-1]:  # one operation at a time: a fused one would round otherwise
        x.mul_(rest).add_(term)
    power = ((whole.long() + 1023) << 52).view(torch.float64)  # 2^whole by its bits
    x.mul_(power).masked_fill_(low, 0.0)
