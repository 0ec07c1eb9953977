"""Blockwise reading of the bank, normalisation of rows, and candidates by approximate products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import torch

from evaltk.errors import DataError

Array: TypeAlias = "torch.Tensor | np.ndarray"
Metric = Literal["cosine", "dot"]
BANK_BLOCK = 32_768  # rows of the bank per block; with QUERY_BLOCK it bounds the scratch memory (268 MB of float32)
QUERY_BLOCK = 2_048
GROUP = 32  # columns per group; a group is only searched if its largest similarity is high enough
SMALLEST_NORM = 1e-15  # features with a smaller norm are rounding errors and have no direction
SQUARES = (1e-12, 1e18)  # norms outside are computed in float64: their squares leave float32's range


def propose(
    queries: Array,
    bank: Array,
    keep: int,
    *,
    metric: Metric,
    scale: int,
    dtype: torch.dtype,
    backend: str,
    device: str,
    query_block: int,
    bank_block: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `keep` largest products of each query in `dtype`, descending, and their rows; ties in arbitrary order.

    Queries and bank are normalised for ``cosine``. For ``dot`` each query is scaled by its own power of two, the whole
    bank by 2^-scale.
    """
    q = prepare(queries, metric, "queries", device=device, dtype=dtype)
    if backend == "faiss":
        from evaltk.neighbours import by_faiss

        return by_faiss.propose(q, blocks(bank, metric, bank_block, device, scale=scale), keep)
    parts = [Best(part, keep, dtype) for part in q.split(query_block)]
    scratch = torch.empty(min(query_block, len(q)) * block_size(len(bank), bank_block), device=q.device, dtype=dtype)
    for start, block_rows in blocks(bank, metric, bank_block, device, dtype=dtype, scale=scale):
        for best in parts:
            best.fold(products(best.queries, block_rows, scratch), start)
    return torch.cat([b.similarity for b in parts]), torch.cat([b.index for b in parts])


class Best:
    """The largest products so far for one block of queries, descending, in `dtype`."""

    def __init__(self, queries: torch.Tensor, keep: int, dtype: torch.dtype) -> None:
        self.queries, self.keep = queries, keep
        self.similarity = torch.empty(len(queries), 0, device=queries.device, dtype=dtype)
        self.index = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)

    def fold(self, block: torch.Tensor, start: int) -> None:
        """Merge products [q, n] with the bank's rows from `start` on."""
        values, columns = best_of(block, self.keep, self.similarity[:, self.keep - 1 :])
        values = torch.cat([self.similarity, values], dim=1)
        columns = torch.cat([self.index, columns + start], dim=1)
        self.similarity, order = values.topk(min(self.keep, values.shape[1]), dim=1)
        self.index = columns.gather(1, order)


def best_of(block: torch.Tensor, keep: int, least: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The `keep` largest of each row of block [q, n], or those above `least` [q, 1], in the format of `above`.

    Args:
        least: the smallest value kept so far; [q, 0] while there are fewer than `keep`.
    """
    highest = maxima(block)
    if highest.shape[1] > keep:
        if not least.shape[1] or int((highest > least).sum(dim=1).max()) > keep:
            # At least `keep` groups reach this value, hence at least `keep` values do.
            reached = highest.topk(keep, dim=1).values[:, -1:]
            reached = torch.nextafter(reached, torch.full_like(reached, -torch.inf))
            least = torch.maximum(least, reached) if least.shape[1] else reached
        if int((highest > least).sum(dim=1).max()) <= 2 * keep:  # otherwise most values are equal
            return above(block, highest, least)
    values, columns = block.topk(min(keep, block.shape[1]), dim=1)
    return values, columns


def maxima(block: torch.Tensor) -> torch.Tensor:
    """The largest value of each complete group of columns of block [q, n]: [q, n // GROUP]."""
    num_groups = block.shape[1] // GROUP
    return block[:, : num_groups * GROUP].unflatten(1, (num_groups, GROUP)).amax(dim=2)


def above(block: torch.Tensor, highest: torch.Tensor, least: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of block [q, n] above `least` [q, 1], and their columns: [q, c], padded with -inf and column 0.

    Only groups of columns whose largest value (`highest`, from `maxima`) is above are searched.
    """
    grouped = highest.shape[1] * GROUP  # columns in complete groups
    row, group = (highest > least).nonzero(as_tuple=True)
    members = block[:, :grouped].unflatten(1, (-1, GROUP))[row, group]
    which, offset = (members > least[row]).nonzero(as_tuple=True)
    row, values, columns = row[which], members[which, offset], group[which] * GROUP + offset
    tail_row, column = (block[:, grouped:] > least).nonzero(as_tuple=True)
    if len(tail_row):
        row, values = torch.cat([row, tail_row]), torch.cat([values, block[tail_row, grouped + column]])
        row, order = row.sort(stable=True)
        values, columns = values[order], torch.cat([columns, grouped + column])[order]
    count = torch.bincount(row, minlength=len(block))
    slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    padded = block.new_full((len(block), int(count.max())), -torch.inf)
    padded[row, slot] = values
    at = torch.zeros(padded.shape, dtype=torch.int64, device=row.device)
    at[row, slot] = columns
    return padded, at


def top(block: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row [q, n], by descending value, then ascending column: values and columns [q, k].

    topk breaks ties arbitrarily, so we take one more value: if the last two are equal, the row is fully sorted instead.
    """
    values, columns = block.topk(min(k + 1, block.shape[1]), dim=1)
    open_rows = (values[:, k - 1] == values[:, k]).nonzero().flatten() if values.shape[1] > k else None
    values, columns = values[:, :k], columns[:, :k]
    if open_rows is not None and len(open_rows):
        full_values, full_columns = block[open_rows].sort(dim=1, descending=True, stable=True)
        values, columns = values.clone(), columns.clone()
        values[open_rows], columns[open_rows] = full_values[:, :k], full_columns[:, :k]
    if bool((values[:, 1:] == values[:, :-1]).any()):  # ties within the k: order them by column
        columns, order = columns.sort(dim=1)
        values, again = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        columns = columns.gather(1, again)
    return values, columns


def products(part: torch.Tensor, block_rows: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """part [q, D] @ block_rows.T [D, n] in the memory of `scratch`."""
    out = scratch[: len(part) * len(block_rows)].view(len(part), len(block_rows))
    return torch.mm(part, block_rows.T, out=out)


def block_size(num_rows: int, size: int) -> int:
    """Number of bank rows per block: at most `size`, with blocks of nearly equal size."""
    even = math.ceil(num_rows / math.ceil(num_rows / size))
    return min(num_rows, size, math.ceil(even / GROUP) * GROUP) if size >= GROUP else even


def blocks(
    bank: Array, metric: Metric, size: int, device: str, *, dtype: torch.dtype = torch.float32, scale: int = 0
) -> Iterator[tuple[int, torch.Tensor]]:
    """Iterate over the bank: (first row, rows [n, D]), prepared and on the device."""
    step = block_size(len(bank), size)
    for start in range(0, len(bank), step):
        block = rows(bank, start, min(start + step, len(bank)))
        yield start, prepare(block, metric, "bank", start, device, dtype=dtype, scale=scale)


def rows(bank: Array, start: int, stop: int) -> torch.Tensor:
    """Rows of the bank as a tensor. A memory-mapped file is read instead: mapped pages would count as our memory."""
    if isinstance(bank, torch.Tensor):
        return bank[start:stop]
    read = _read(bank, start, stop) if isinstance(bank, np.memmap) else None
    return torch.from_numpy(np.array(bank[start:stop], dtype=np.float32) if read is None else read)


def _read(bank: np.memmap, start: int, stop: int) -> np.ndarray | None:
    """Rows of a memory-mapped file, read from the file; None if they must come from the mapping.

    A view has its parent's offset, a copy-on-write array may have been modified, and the file may have been removed.
    """
    plain = not isinstance(bank.base, np.ndarray) and bank.flags["C_CONTIGUOUS"] and bank.dtype == np.float32
    if not plain or bank.filename is None or bank.mode == "c":
        return None
    skip = bank.offset + start * bank.shape[1] * bank.itemsize
    try:
        flat = np.fromfile(bank.filename, dtype=np.float32, count=(stop - start) * bank.shape[1], offset=skip)
    except OSError:
        return None
    if flat.size != (stop - start) * bank.shape[1]:
        raise DataError(
            wanted=f"{len(bank)} rows of features",
            got="a truncated file",
            where=bank.filename,
            do="rerun the command: the file changed while it was being read",
        )
    return flat.reshape(-1, bank.shape[1])


def shift(bank: Array, size: int) -> int:
    """The smallest e such that no row of the bank [N, D] has a norm above 2^e; non-finite rows are ignored."""
    largest = 0.0
    for start in range(0, len(bank), size):
        block = rows(bank, start, min(start + size, len(bank))).float()
        norms = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)
        largest = max(largest, float(norms.where(torch.isfinite(norms), 0.0).max()))
    return math.frexp(largest)[1]


def prepare(
    x: Array,
    metric: Metric,
    what: str,
    first: int = 0,
    device: str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    scale: int | None = None,
) -> torch.Tensor:
    """Rows [N, D] in `dtype` on the device: normalised for cosine; for dot scaled by a power of two to norm <= 1.

    Args:
        what, first: name of the rows and number of the first one, for errors. scale: for dot, divide all rows by
            2^scale; None: each by its own power of two.

    Raises: DataError: a row is not finite, or, for cosine, zero or nearly so.
    """
    if not isinstance(x, torch.Tensor):
        x = rows(x, 0, len(x))
    x = x.to(device=device, dtype=torch.float32)
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True).to(dtype)  # [n, 1]
    odd = ~((norms > SQUARES[0]) & (norms < SQUARES[1])).flatten() if dtype == torch.float32 else None
    if odd is None or bool(odd.any()):
        return _prepare_odd(x, metric, what, first, dtype, scale)
    if metric == "cosine":
        return x / norms
    exponent = torch.frexp(norms).exponent if scale is None else torch.tensor(scale, device=x.device)
    return torch.ldexp(x, -exponent)


def _prepare_odd(
    x: torch.Tensor, metric: Metric, what: str, first: int, dtype: torch.dtype, scale: int | None
) -> torch.Tensor:
    """`prepare` through float64, which can represent the squares of all float32 values."""
    wide = x.double()
    norms = torch.linalg.vector_norm(wide, dim=1, keepdim=True)  # [n, 1]
    bad = ~torch.isfinite(norms) if metric == "dot" else ~(torch.isfinite(norms) & (norms > SMALLEST_NORM))
    if bool(bad.any()):
        row = int(bad.flatten().nonzero()[0])
        norm = float(norms[row])
        kind = "not finite"
        if norm <= SMALLEST_NORM:
            kind = ("zero" if norm == 0 else f"too small (norm {norm:.1g})") + ", without a direction"
        raise DataError(
            wanted="features that are finite" + ("" if metric == "dot" else " and not zero"),
            got=f"{int(bad.sum())} rows, the first of them {kind}",
            where=f"{what}, row {first + row}",
            do="check the checkpoint (it may have diverged) and the images",
        )
    if metric == "cosine":
        return (wide / norms).to(dtype)
    exponent = torch.frexp(norms).exponent if scale is None else torch.tensor(scale, device=x.device)
    return torch.ldexp(wide, -exponent).to(dtype)
