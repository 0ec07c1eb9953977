"""The duplicate graph of prototypes: an edge where the cosine exceeds a threshold; never stored as a whole.

Similarities are computed one tile at a time in float32. A pair within rounding (`margin`) of a threshold is recomputed
in float64 in a fixed order, so that edges are the same on every processor and equal pairs have equal cosines.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Table 4, which does not define duplicates further.
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
ROWS = 8_192  # rows normalised at a time
PAIRS = 8_192  # pairs recomputed at a time: 32 MiB of float64 at 256 dimensions


def margin(dim: int) -> float:
    """Bound on the difference between a float32 product of rows of `Directions.unit` and the cosine of `exact`.

    A product of p terms, summed in any order, is off by at most gamma_p = p u / (1 - p u) times sum |a_i b_i| <= 1 for
    unit rows, u = 2^-24. Two more roundings are for the rows' entries, two for rounding the threshold to float32, and
    four for all of float64's and for products too small for float32.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
    """
    n = (dim + 8) * 2.0**-24
    return n / (1 - n)


class Directions:
    """Prototypes as unit rows.

    Attributes:
        norms: [K] float64. unit: [K, p] float32 on the device, each entry rounded once. tile: rows per block of
            similarities. margin: a similarity closer than this to a threshold is recomputed.
    """

    def __init__(self, prototypes: Array, *, device: str = "cpu") -> None:
        """prototypes: [K, p]. Raises: DataError: not a matrix, or rows that are zero or not finite (named by index)."""
        given = prototypes.detach().cpu().numpy() if isinstance(prototypes, torch.Tensor) else np.asarray(prototypes)
        if given.ndim != 2 or 0 in given.shape or not np.issubdtype(given.dtype, np.floating):
            got = f"{given.dtype} {list(given.shape)}"
            raise DataError(
                wanted="a floating-point matrix of prototypes [K, p]", got=got, do="pass one row per prototype"
            )
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
                do="remove these rows, or use a checkpoint from before training diverged",
            )
        self.unit = torch.from_numpy(unit).to(device)
        self.margin = margin(given.shape[1])
        self.tile = 1_024 if self.unit.device.type == "cpu" else 8_192

    def __len__(self) -> int:
        return len(self.given)

    def exact(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Cosines [n] float64 of the pairs (i[n], j[n]), summed in a fixed order: equal pairs have equal bits."""
        cosine = np.empty(len(i), dtype=np.float64)
        for start in range(0, len(i), PAIRS):
            pairs = slice(start, start + PAIRS)
            a, b = (torch.from_numpy(self.given[rows[pairs]].astype(np.float64)) for rows in (i, j))
            cosine[pairs] = fixed_order.dot(a, b).numpy() / (self.norms[i[pairs]] * self.norms[j[pairs]])
        return cosine

    def similarities(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Float32 cosines [a, b] of unit rows [a, p] and [b, p], each within `margin` of the exact one.

        Never TF32 or bfloat16, for which the margin would not hold.
        """
        with precise.products(self.unit.device):
            return rows @ columns.T

    def edges(self, block: torch.Tensor, i: np.ndarray, j: np.ndarray, threshold: float) -> torch.Tensor:
        """Float32 0 or 1 [a, b]: whether the similarities block [a, b] of rows i [a] and j [b] exceed the threshold."""
        # On the CPU two comparisons into float buffers are many times faster than a distance and a bool mask.
        sure = torch.gt(block, threshold + self.margin, out=torch.empty_like(block))
        perhaps = torch.gt(block, threshold - self.margin, out=torch.empty_like(block))
        # Counts per row stay below 2^24, so they are exact in float32.
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
    """Statistics of all pairs at one threshold.

    Attributes:
        degree: [K] int64, number of edges per row. earliest: [K] int64, the first earlier row with an edge to it, or
            itself.
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
        # Mask the diagonal (a row is not its own duplicate) and the lower half (symmetric).
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
    """(rows, columns, similarities) of the tiles on and above the diagonal, with ascending rows for each column."""
    unit = directions.unit
    starts = range(0, len(unit), size)
    for top in starts:
        rows = slice(top, min(top + size, len(unit)))
        for left in starts[top // size :]:
            columns = slice(left, min(left + size, len(unit)))
            yield rows, columns, directions.similarities(unit[rows], unit[columns])


def join(directions: Directions, threshold: float, owner: np.ndarray) -> np.ndarray:
    """Connected components [K] int64 (each labelled by its smallest row), by merging the groups of a leader scan.

    Args:
        owner: [K], the leader of each row from `scan`; leaders have no edges between them.

    Rows already in the same component are not compared again, so large sets of duplicates cost little; nor are leaders
    of groups of one, so rows that all differ cost little too.
    """
    num = len(directions)
    size = np.bincount(owner, minlength=num)
    # Groups are contiguous, the largest first, single rows last.
    order = np.lexsort((np.arange(num), owner, -size[owner]))
    in_groups = int((size[owner] > 1).sum())
    label = owner[order]
    unit = directions.unit[torch.from_numpy(order).to(directions.unit.device)]
    for top in range(0, in_groups, directions.tile):
        rows = slice(top, min(top + directions.tile, in_groups))
        for left in range(top, num, directions.tile):
            columns = slice(left, min(left + directions.tile, num))
            if _constant(label[rows]) and _constant(label[columns]) and label[rows.start] == label[columns.start]:
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
    components = np.empty(num, dtype=np.int64)
    components[order] = smallest[label]
    return components


def _constant(label: np.ndarray) -> bool:
    return bool(label[0] == label[-1] and (label == label[0]).all())


def _merge(label: np.ndarray, a: np.ndarray, b: np.ndarray, num: int) -> np.ndarray:
    """Labels [K] after merging the labels a[n] with b[n]."""
    pairs = np.unique(a * num + b)
    involved, inverse = np.unique(np.concatenate([pairs // num, pairs % num]), return_inverse=True)
    half, inverse = len(pairs), inverse.astype(np.int32)  # scipy 1.11 walks a graph by int32 alone
    graph = coo_array((np.ones(half, dtype=np.int8), (inverse[:half], inverse[half:])), shape=(len(involved),) * 2)
    _, part = connected_components(graph, directed=False)
    smallest = np.full(part.max() + 1, num, dtype=np.int64)
    np.minimum.at(smallest, part, involved)
    merged = np.arange(num)
    merged[involved] = smallest[part]
    return merged[label]
