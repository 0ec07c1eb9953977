"""The work of a sweep in pieces, some heads of one recipe each, spread over threads.

Heads do not touch each other, so a piece takes many steps, or evaluates, without waiting for the others. With classes
and images by the thousand one product keeps all threads busy, and the pieces follow each other instead. Either way the
numbers are those of all heads in one product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from evaltk import spread
from evaltk.types import Features
from protocols.linear import heads as probe
from protocols.linear.heads import LinearClassifiers

T = TypeVar("T")
HEADS = 32  # of a piece: sums over a batch are made for so many columns at once, so they round as those of all heads
SMALL = 2**28  # products of a batch with all heads below which more threads do not help it
BATCHES = 16  # that a piece steps through at a time

Piece = tuple[int, slice]  # of recipe f, these heads


def small(heads: Sequence[LinearClassifiers], rows: int) -> bool:
    """Whether products of so many rows with the heads of a recipe are too small for several threads."""
    most = max((rows * one.weight.numel() for one in heads), default=0)
    return most < SMALL and all(one.weight.device.type == "cpu" for one in heads)


def threads(heads: Sequence[LinearClassifiers], rows: int) -> AbstractContextManager[None]:
    """Inside, operations on small heads use one thread each."""
    return spread.small_operations() if small(heads, rows) else nullcontext()


def groups(batches: Iterable[T], heads: Sequence[LinearClassifiers], rows: int) -> Iterator[list[T]]:
    """Batches of so many rows, as many at a time as are stepped through together."""
    left = iter(batches)
    while some := list(islice(left, BATCHES if small(heads, rows) else 1)):
        yield some


def each(work: Callable[[Piece], None], heads: Sequence[LinearClassifiers], rows: int) -> None:
    """Call `work` for each piece; in threads where products of so many rows are small."""
    alone = small(heads, rows)
    size = HEADS if alone else max((len(one.weight) for one in heads), default=1)
    parts = [(f, slice(n, n + size)) for f, one in enumerate(heads) for n in range(0, len(one.weight), size)]
    parts.sort(key=lambda part: some(heads[part[0]], part[1]).weight.numel(), reverse=True)  # the longest first
    with threads(heads, rows):
        if alone:
            spread.each(work, parts, torch.device("cpu"))
            return
        for part in parts:
            work(part)


def some(heads: LinearClassifiers, which: slice) -> LinearClassifiers:
    """These heads, in the same memory."""
    weight, bias, weight_momentum, bias_momentum = (tensor[which] for tensor in heads.tensors())
    return LinearClassifiers(weight=weight, bias=bias, weight_momentum=weight_momentum, bias_momentum=bias_momentum)


def measure(heads: Sequence[LinearClassifiers], features: Sequence[Features]) -> list[tuple[Tensor, Tensor]]:
    """`heads.measure` of each recipe's heads on its features."""
    found = [
        (torch.zeros(len(one.weight), dtype=torch.int64), torch.zeros(len(one.weight), dtype=torch.float64))
        for one in heads
    ]

    def work(piece: Piece) -> None:
        f, which = piece
        y = torch.from_numpy(np.asarray(features[f].y))
        block = probe.block_of(heads[f])
        correct, loss = probe.measure(some(heads[f], which), features[f].x, y, block=block)
        found[f][0][which], found[f][1][which] = correct, loss

    rows = max((min(len(f.y), probe.block_of(one)) for one, f in zip(heads, features, strict=True)), default=0)
    each(work, heads, math.ceil(rows / BATCHES))
    return found
