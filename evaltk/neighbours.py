"""Exact nearest neighbours by blocks: the whole similarity matrix never exists, the bank may be larger than memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import torch

from evaltk.errors import DataError, SettingsError

Array: TypeAlias = "torch.Tensor | np.ndarray"
Metric = Literal["cosine", "dot"]
BANK_BLOCK = 32_768  # rows of the bank at a time; with QUERY_BLOCK it bounds the scratch memory (268 MB of float32)
QUERY_BLOCK = 2_048
GROUP = 32  # columns whose largest similarity decides whether they are looked at one by one
SMALLEST_NORM = 1e-15  # below it squares leave float32's range, and a direction would be made of rounding errors


def search(
    queries: Array,
    bank: Array,
    k: int,
    *,
    metric: Metric = "cosine",
    backend: Literal["torch", "faiss"] = "torch",
    device: str = "cpu",
    query_block: int = QUERY_BLOCK,
    bank_block: int = BANK_BLOCK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows of the bank for each query.

    Args:
        queries: [Q, D] float32. bank: [N, D] float32, tensor or array; a memory-mapped array is read block by block.
        metric: ``cosine`` (rows are L2-normalised here) or ``dot``.
        backend: ``torch`` or ``faiss`` (the extra of that name). Both give the same neighbours.

    Returns: similarity [Q, k] float32, falling; index [Q, k] int64. Equal similarities stand in order of the index.
    Raises: SettingsError: k out of range. DataError: rows that are zero (cosine) or not finite.
    """
    _check(queries, bank, k, metric, backend)
    if backend == "faiss":
        from evaltk import neighbours_faiss

        return neighbours_faiss.search(queries, bank, k, metric=metric, bank_block=bank_block)
    q = prepare(queries, metric, "queries", device=device)
    if not len(q):
        return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    parts = [_Best(part, k) for part in q.split(query_block)]
    scratch = torch.empty(max(2, min(query_block, len(q))) * block_size(len(bank), bank_block), device=q.device)
    for start, block_rows, again in blocks(bank, metric, bank_block, device):
        for best in parts:
            best.fold(products(best.queries, block_rows, scratch), start, again)
    return torch.cat([b.similarity for b in parts]).cpu(), torch.cat([b.index for b in parts]).cpu()


def _check(queries: Array, bank: Array, k: int, metric: str, backend: str) -> None:
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise DataError(
            wanted="queries [Q, D] and bank [N, D]",
            got=f"{list(queries.shape)} and {list(bank.shape)}",
            where="neighbours",
            do="compare features of one checkpoint and recipe",
        )
    if not 1 <= k <= len(bank):
        wanted = f"1 <= k <= {len(bank)}, the size of the bank"
        raise SettingsError(wanted=wanted, got=f"k = {k}", where="neighbours", do="ask for fewer")
    if metric not in ("cosine", "dot"):
        raise SettingsError(wanted="cosine or dot", got=repr(metric), where="metric", do="mend the setting")
    if backend not in ("torch", "faiss"):
        raise SettingsError(wanted="torch or faiss", got=repr(backend), where="backend", do="mend the setting")


class _Best:
    """The best neighbours so far of one block of queries, in order of (similarity falling, index rising)."""

    def __init__(self, queries: torch.Tensor, k: int) -> None:
        self.queries, self.k = queries, k
        self.similarity = torch.empty(len(queries), 0, device=queries.device)
        self.index = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)

    def fold(self, block: torch.Tensor, start: int, again: int) -> None:
        """Take in similarities [q, n] to the bank's rows from `start` on; blocks come in order of their rows.

        The first `again` columns were in the block before; they are overwritten.
        """
        block[:, :again] = -torch.inf
        columns = None
        if self.similarity.shape[1] == self.k:
            # Only what beats the k-th so far can enter: an equal one further down the bank comes after it.
            columns = candidates(block, self.similarity[:, -1:])
            if columns is None:
                return
            block = block.gather(1, columns)
        values, positions = top(block, min(self.k, block.shape[1]))
        found = (positions if columns is None else columns.gather(1, positions)) + start
        s, i = torch.cat([self.similarity, values], dim=1), torch.cat([self.index, found], dim=1)
        if self.similarity.shape[1]:
            # Stable: of equal similarities the earlier block's stay in front, and its indices are the smaller ones.
            s, order = s.sort(dim=1, descending=True, stable=True)
            s, i = s[:, : self.k].contiguous(), i.gather(1, order[:, : self.k])
        self.similarity, self.index = s, i


def candidates(block: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor | None:
    """Columns [q, c], rising, that hold every value of block [q, n] above its row's threshold [q, 1] (and others).

    The largest value of each group of columns is found first, which is cheap; only groups that reach above the
    threshold are looked into. None where no group of any row does.
    """
    num_queries, n = block.shape
    whole = n // GROUP * GROUP
    if whole < n or not whole:  # a remainder would need a group of its own: look at all columns of this last block
        return torch.arange(n, device=block.device).expand(num_queries, n)
    maxima = block.view(num_queries, -1, GROUP).amax(dim=2)
    most = int((maxima > threshold).sum(dim=1).max())
    if not most:
        return None
    groups = maxima.topk(most, dim=1).indices.sort(dim=1).values  # [q, most]
    return (groups.unsqueeze(2) * GROUP + torch.arange(GROUP, device=block.device)).flatten(1)


def top(block: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row [q, n] in order of (value falling, column rising): values and columns [q, k].

    topk leaves open which of equal values it takes, so one more is asked for: where the last two are equal the choice
    was arbitrary and the row is sorted in full instead.
    """
    values, columns = block.topk(min(k + 1, block.shape[1]), dim=1)
    open_rows = (values[:, k - 1] == values[:, k]).nonzero().flatten() if values.shape[1] > k else None
    values, columns = values[:, :k], columns[:, :k]
    if open_rows is not None and len(open_rows):
        full_values, full_columns = block[open_rows].sort(dim=1, descending=True, stable=True)
        values, columns = values.clone(), columns.clone()
        values[open_rows], columns[open_rows] = full_values[:, :k], full_columns[:, :k]
    if bool((values[:, 1:] == values[:, :-1]).any()):  # inside the k: order equal values by column
        columns, order = columns.sort(dim=1)
        values, again = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        columns = columns.gather(1, again)
    return values, columns


def products(part: torch.Tensor, block_rows: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """part [q, D] @ block_rows.T [D, n] in the memory of `scratch`."""
    # One row would go through a matrix-vector product, which rounds equal rows of the bank by where they stand.
    wide = part if len(part) > 1 else part.repeat(2, 1)
    out = scratch[: len(wide) * len(block_rows)].view(len(wide), len(block_rows))
    return torch.mm(wide, block_rows.T, out=out)[: len(part)]


def block_size(num_rows: int, size: int) -> int:
    """How many rows of the bank each block has: at most `size`, and few rows are left over."""
    even = math.ceil(num_rows / math.ceil(num_rows / size))
    return min(num_rows, size, math.ceil(even / GROUP) * GROUP) if size >= GROUP else even


def blocks(bank: Array, metric: Metric, size: int, device: str) -> Iterator[tuple[int, torch.Tensor, int]]:
    """(first row, rows [n, D], how many of them the block before had) over the bank, prepared and on the device.

    All blocks have one size, and the last reaches back for it: products of other shapes may round equal rows
    differently, and ties would then not stand in order of the index.
    """
    each = block_size(len(bank), size)
    for first in range(0, len(bank), each):
        start = min(first, len(bank) - each)
        yield start, prepare(rows(bank, start, start + each), metric, "bank", start, device), first - start


def rows(bank: Array, start: int, stop: int) -> torch.Tensor:
    """Rows of the bank as a tensor. A memory-mapped file is read: mapped pages would count as our memory."""
    if isinstance(bank, torch.Tensor):
        return bank[start:stop]
    found = _read(bank, start, stop) if isinstance(bank, np.memmap) else None
    return torch.from_numpy(np.array(bank[start:stop], dtype=np.float32) if found is None else found)


def _read(bank: np.memmap, start: int, stop: int) -> np.ndarray | None:
    """Rows of a mapped file by reading it; None where only the mapping tells them.

    A view has its parent's offset, a copy-on-write array may have been changed, and the file may have been removed.
    """
    whole = not isinstance(bank.base, np.ndarray) and bank.flags["C_CONTIGUOUS"] and bank.dtype == np.float32
    if not whole or bank.filename is None or bank.mode == "c":
        return None
    skip = bank.offset + start * bank.shape[1] * bank.itemsize
    try:
        flat = np.fromfile(bank.filename, dtype=np.float32, count=(stop - start) * bank.shape[1], offset=skip)
    except OSError:
        return None
    if flat.size != (stop - start) * bank.shape[1]:
        raise DataError(
            wanted=f"{len(bank)} rows of features",
            got="a file that ends before",
            where=bank.filename,
            do="make the features again: the file was changed while it was read",
        )
    return flat.reshape(-1, bank.shape[1])


def prepare(x: Array, metric: Metric, what: str, first: int = 0, device: str = "cpu") -> torch.Tensor:
    """float32 rows on the device, L2-normalised for cosine. Raises: DataError: a row is zero or not finite."""
    if not isinstance(x, torch.Tensor):
        x = rows(x, 0, len(x))
    x = x.to(device=device, dtype=torch.float32)
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # [n, 1]
    bad = ~torch.isfinite(norms) if metric == "dot" else ~(torch.isfinite(norms) & (norms > SMALLEST_NORM))
    if bool(bad.any()):
        row = int(bad.flatten().nonzero()[0])
        kind = "zero, so that it has no direction" if float(norms[row]) <= SMALLEST_NORM else "not finite"
        raise DataError(
            wanted="features that are finite" + ("" if metric == "dot" else " and not zero"),
            got=f"{int(bad.sum())} rows, the first of them {kind}",
            where=f"{what}, row {first + row}",
            do="look at the checkpoint and the images; such features cannot be compared",
        )
    return x / norms if metric == "cosine" else x
