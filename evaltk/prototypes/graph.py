"""Which directions are near-copies: the graph with an edge where the cosine is above a threshold, never stored.

Similarities exist one tile at a time. They are float32; a pair that lies within their rounding (`margin`) of a
threshold is computed again in float64 and in a fixed order, so that edges are the same on every processor, and equal
pairs have equal cosines.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Table 4, which leaves the reading open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from evaltk import fixed_order, precise
from evaltk.errors import DataError

Array: TypeAlias = "torch.Tensor | np.ndarray"
ROWS = 8_192  # rows made unit at a time
PAIRS = 8_192  # pairs computed again at a time: 32 MiB of float64 at 256 dimensions


def margin(dim: int) -> float:
    """How far a float32 product of two rows of `Directions.unit` lies from the cosine that `exact` gives, at most.

    Each product and sum of p terms, in whatever order, is off by gamma_p = p u / (1 - p u) of sum |a_i b_i|, which is 1
    at most for unit rows (u = 2^-24; Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). Two
    more roundings are those of the rows' own entries, two that of a threshold to float32; four are for all of float64's
    and for products too small for float32.
    """
    n = (dim + 8) * 2.0**-24
    return n / (1 - n)


class Directions:
    """Prototypes as unit rows.

    Attributes:
        norms: [K] float64. unit: [K, p] float32 on the device, each entry rounded once. tile: rows of a block of
            similarities. margin: within it of a threshold, a similarity does not tell whether there is an edge.
    """

    def __init__(self, prototypes: Array, *, device: str = "cpu") -> None:
        """prototypes: [K, p]. Raises: DataError: not a matrix, or rows that are zero or not finite (named by index)."""
        given = prototypes.detach().cpu().numpy() if isinstance(prototypes, torch.Tensor) else np.asarray(prototypes)
        if given.ndim != 2 or 0 in given.shape or not np.issubdtype(given.dtype, np.floating):
            got = f"{given.dtype} {list(given.shape)}"
            raise DataError(wanted="a matrix of prototypes [K, p], floats", got=got, do="name another array")
        self.given = given
        self.norms = np.empty(len(given), dtype=np.float64)
        unit = np.empty(given.shape, dtype=np.float32)
        for start in range(0, len(given), ROWS):
            rows = torch.from_numpy(given[start : start + ROWS].astype(np.float64))
            self.norms[start : start + ROWS] = norms = fixed_order.dot(rows, rows).sqrt().numpy()
            with np.errstate(divide="ignore", invalid="ignore"):
                unit[start : start + ROWS] = rows.numpy() / norms[:, None]
        bad = np.flatnonzero(~(np.isfinite(self.norms) & (self.norms > 0)))
        if len(bad):
            named = ", ".join(f"{i} ({'zero' if self.norms[i] == 0 else 'not finite'})" for i in bad[:8].tolist())
            raise DataError(
                wanted="prototypes with a direction",
                got=f"{len(bad)} of {len(given)} without: {named}{' ...' if len(bad) > 8 else ''}",
                where="the matrix of prototypes, rows from 0",
                do="leave these rows out, or use a checkpoint from before the training diverged",
            )
        self.unit = torch.from_numpy(unit).to(device)
        self.margin = margin(given.shape[1])
        self.tile = 1_024 if self.unit.device.type == "cpu" else 8_192

    def __len__(self) -> int:
        return len(self.given)

    def exact(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Cosines in float64 of the pairs (i[n], j[n]): [n]. The sum's order is fixed: equal pairs are equal bits."""
        found = np.empty(len(i), dtype=np.float64)
        for start in range(0, len(i), PAIRS):
            some = slice(start, start + PAIRS)
            a, b = (torch.from_numpy(self.given[at[some]].astype(np.float64)) for at in (i, j))
            found[some] = fixed_order.dot(a, b).numpy() / (self.norms[i[some]] * self.norms[j[some]])
        return found

    def similarities(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Float32 cosines [a, b] of unit rows [a, p] and [b, p], each within `margin` of the exact one.

        Never TF32 or bfloat16, whatever the process allows: the margin would not hold.
        """
        with precise.products(self.unit.device):
            return rows @ columns.T

    def edges(self, block: torch.Tensor, i: np.ndarray, j: np.ndarray, threshold: float) -> torch.Tensor:
        """Float32 0 or 1 [a, b]: whether the similarities block [a, b] of rows i [a] and j [b] exceed the threshold."""
        # Two comparisons into float buffers are many times faster than a distance and a bool mask on the CPU.
        sure = torch.gt(block, threshold + self.margin, out=torch.empty_like(block))
        perhaps = torch.gt(block, threshold - self.margin, out=torch.empty_like(block))
        # Counts of a row stay below 2^24: they are exact in float32.
        rows = (perhaps.sum(dim=1) != sure.sum(dim=1)).nonzero().flatten()
        if not len(rows):
            return sure
        first, second = (perhaps[rows] != sure[rows]).nonzero().unbind(1)
        first = rows[first]
        cosine = self.exact(i[first.cpu().numpy()], j[second.cpu().numpy()])
        sure[first, second] = torch.from_numpy((cosine > threshold).astype(np.float32)).to(sure.device)
        return sure


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What one pass over all pairs tells at a threshold.

    Attributes:
        degree: [K] int64, edges of each row. earliest: [K] int64, the first row it has an edge with that stands before
            it, or itself.
    """

    degree: np.ndarray
    earliest: np.ndarray


def count_edges(directions: Directions, thresholds: Sequence[float]) -> list[Pairs]:
    """`Pairs` at each threshold, all from one pass over half of the similarities."""
    num, size, device = len(directions), directions.tile, directions.unit.device
    ids = np.arange(num)
    degree = torch.zeros(len(thresholds), num, dtype=torch.float64, device=device)
    earliest = torch.arange(num, device=device).repeat(len(thresholds), 1)
    for rows, columns, block in _tiles(directions, size):
        # A row is no duplicate of itself, and below the diagonal stands what is above it.
        if rows.start == columns.start:
            block = block.triu_(1).add_(torch.full_like(block, -2.0).tril_())
        highest = float(block.max())
        for n, threshold in enumerate(thresholds):
            if highest <= threshold - directions.margin:
                continue
            edge = directions.edges(block, ids[rows], ids[columns], threshold)
            down = edge.sum(dim=0)
            degree[n, rows] += edge.sum(dim=1)
            degree[n, columns] += down
            own = torch.arange(columns.start, columns.stop, device=device)
            new = ((down > 0) & (earliest[n, columns] == own)).nonzero().flatten()
            earliest[n, columns.start + new] = rows.start + edge[:, new].argmax(dim=0)  # the first of equal values
    return [
        Pairs(degree=d.cpu().numpy().astype(np.int64), earliest=e.cpu().numpy())
        for d, e in zip(degree, earliest, strict=True)
    ]


def _tiles(directions: Directions, size: int) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """(rows, columns, similarities) of the tiles on and above the diagonal; for each column the rows rise."""
    unit = directions.unit
    starts = range(0, len(unit), size)
    for top in starts:
        rows = slice(top, min(top + size, len(unit)))
        for left in starts[top // size :]:
            columns = slice(left, min(left + size, len(unit)))
            yield rows, columns, directions.similarities(unit[rows], unit[columns])


def join(directions: Directions, threshold: float, owner: np.ndarray) -> np.ndarray:
    """Connected components [K] int64 (each named by its smallest row), from groups that are known to hold together.

    Args:
        owner: [K], the leader of each row, as one scan gives it: a leader has no edge with another leader.

    Two rows of one component are never compared again, so that a block of near-copies costs next to nothing; nor are
    two leaders that stand alone, so that rows that are all different do not either.
    """
    num = len(directions)
    size = np.bincount(owner, minlength=num)
    # Members of a group side by side, the largest group first, those that stand alone last.
    order = np.lexsort((np.arange(num), owner, -size[owner]))
    in_groups = int((size[owner] > 1).sum())
    label = owner[order]
    unit = directions.unit[torch.from_numpy(order).to(directions.unit.device)]
    for top in range(0, in_groups, directions.tile):
        rows = slice(top, min(top + directions.tile, in_groups))
        for left in range(top, num, directions.tile):
            columns = slice(left, min(left + directions.tile, num))
            if _one(label[rows]) and _one(label[columns]) and label[rows.start] == label[columns.start]:
                continue
            block = directions.similarities(unit[rows], unit[columns])
            if float(block.max()) <= threshold - directions.margin:
                continue
            edge = directions.edges(block, order[rows], order[columns], threshold).cpu().numpy() > 0
            edge &= label[rows][:, None] != label[columns][None, :]
            first, second = np.nonzero(edge)
            if len(first):
                label = _merge(label, label[rows][first], label[columns][second], num)
    smallest = np.full(num, num, dtype=np.int64)
    np.minimum.at(smallest, label, order)
    found = np.empty(num, dtype=np.int64)
    found[order] = smallest[label]
    return found


def _one(label: np.ndarray) -> bool:
    return bool(label[0] == label[-1] and (label == label[0]).all())


def _merge(label: np.ndarray, a: np.ndarray, b: np.ndarray, num: int) -> np.ndarray:
    """Labels [K] after the labels a[n] and b[n] became one."""
    pairs = np.unique(a * num + b)
    involved, inverse = np.unique(np.concatenate([pairs // num, pairs % num]), return_inverse=True)
    half, inverse = len(pairs), inverse.astype(np.int32)  # scipy 1.11 walks a graph by int32 alone
    graph = coo_array((np.ones(half, dtype=np.int8), (inverse[:half], inverse[half:])), shape=(len(involved),) * 2)
    _, part = connected_components(graph, directed=False)
    smallest = np.full(part.max() + 1, num, dtype=np.int64)
    np.minimum.at(smallest, part, involved)
    becomes = np.arange(num)
    becomes[involved] = smallest[part]
    return becomes[label]
