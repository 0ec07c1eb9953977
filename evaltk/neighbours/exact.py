"""Exact blockwise nearest neighbours: the similarity matrix is never stored, and the bank may be larger than memory.

A matrix product in float32, or first in bfloat16, only selects candidates. Its rounding depends on processor, threads
and a row's position in the block, so the rows within its error bound of the k-th best are compared again, pair by pair,
in a fixed order (`fixed_order.dot`). If the candidates cannot be proven to include all of these, the query is searched
again: in float32 after bfloat16, exhaustively after float32. The result is the same on every processor, device, backend
and block size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from evaltk import fixed_order
from evaltk.errors import DataError, SettingsError
from evaltk.neighbours import halves
from evaltk.neighbours.blocks import BANK_BLOCK, QUERY_BLOCK, Array, Metric, blocks, prepare, propose, rows, shift, top

__all__ = ["Array", "Metric", "blocks", "prepare", "rows", "search", "top"]

SPARE = 16  # candidates beyond k, plus k / 8: rarely are more rows within rounding of the k-th
PAIRS = 1 << 24  # similarities in memory at a time in an exhaustive search


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
    bf16: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows of the bank for each query.

    Similarities are computed in float64 from float32 rows. Neighbours are sorted by descending similarity, then
    ascending index; equal rows have equal similarities.

    Args:
        queries: [Q, D] float32. bank: [N, D] float32, tensor or array; a memory-mapped array is read block by block.
        metric: ``cosine`` or ``dot``.
        backend: how candidates are selected: ``torch``, or ``faiss`` (an optional extra).
        bf16: whether from products of bfloat16 first; None: where that is faster (GPUs, CPUs with AMX).

    Returns: similarity [Q, k] float32, descending; index [Q, k] int64.
    Raises: SettingsError: k out of range. DataError: rows that are zero (cosine) or not finite, or inner products
        outside float32's range.
    """
    _check(queries, bank, k, metric, backend)
    if not len(queries):
        return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    task = _Task(
        bank=bank,
        k=k,
        metric=metric,
        backend=backend,
        device=device,
        scale=shift(bank, bank_block) if metric == "dot" else 0,
        query_block=query_block,
        bank_block=bank_block,
    )
    if bf16 is None:
        bf16 = backend == "torch" and halves.worth(device, len(queries) * len(bank))
    exact, index = _through_bf16(queries, task) if bf16 else _through_float32(queries, task)
    return _as_float32(exact), index.cpu()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """What `search` is asked for, but for the queries. scale: see `blocks.propose`."""

    bank: Array
    k: int
    metric: Metric
    backend: str
    device: str
    scale: int
    query_block: int
    bank_block: int

    @property
    def home(self) -> str:
        """Where float64 exists."""
        return "cpu" if self.device.startswith("mps") else self.device


def _through_bf16(queries: Array, task: _Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities float64 and indices [Q, k]; queries whose neighbours bfloat16 leaves open, through float32."""
    approximate, index, error = halves.propose(
        queries,
        task.bank,
        min(len(task.bank), halves.candidates(task.k)),
        metric=task.metric,
        scale=task.scale,
        device=task.device,
        query_block=task.query_block,
        bank_block=task.bank_block,
    )
    exact, index, unsure = _settled(queries, approximate, index, error[:, None], task)
    if bool(unsure.any()):
        remaining = _raw(queries, "cpu")[unsure.cpu()]
        exact[unsure], index[unsure] = _through_float32(remaining, task)
    return exact, index


def _through_float32(queries: Array, task: _Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities float64 and indices [Q, k]; queries that float32 leaves open are searched exhaustively."""
    bank, k, home = task.bank, task.k, task.home
    full = fixed_order.full_precision(task.device) or task.backend == "faiss"
    dtype = torch.float32 if full else torch.float64
    approximate, index = propose(
        queries,
        bank,
        min(len(bank), k + k // 8 + SPARE),
        metric=task.metric,
        scale=task.scale,
        dtype=dtype,
        backend=task.backend,
        device=task.device if full else home,
        query_block=task.query_block,
        bank_block=task.bank_block,
    )
    exact, index, unsure = _settled(queries, approximate, index, fixed_order.product_error(bank.shape[1], dtype), task)
    if bool(unsure.any()):
        remaining = _raw(queries, "cpu")[unsure.cpu()].to(home)
        exact[unsure], index[unsure] = _exhaustive(remaining, bank, k, task.metric, task.scale, home, task.bank_block)
    return exact, index


def _settled(
    queries: Array, approximate: torch.Tensor, index: torch.Tensor, error: torch.Tensor | float, task: _Task
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Similarities float64 and indices [Q, k] of candidates, and whether others may be among them [Q].

    Args: approximate, index: [Q, n], products in descending order, and rows. error: a bound on the products' errors.
    """
    approximate, index = approximate.to(task.home, torch.float64), index.to(task.home)
    # The order of two rows is certain if their products differ by more than both errors.
    bound = approximate[:, task.k - 1 : task.k] - 2 * error
    unsure = (approximate[:, -1] >= bound[:, 0]) & (index.shape[1] < len(task.bank))
    wanted = (approximate >= bound) & ~unsure[:, None]
    exact = _compare(_raw(queries, task.home), task.bank, index, wanted, task.metric, task.home, task.bank_block)
    exact, index = _in_order(exact, index, task.k)
    return exact, index, unsure


def _as_float32(similarity: torch.Tensor) -> torch.Tensor:
    rounded = similarity.float().cpu()
    if not bool(torch.isfinite(rounded).all()):
        raise DataError(
            wanted="inner products within float32's range",
            got=f"one of {float(similarity.abs().max()):.3g}",
            where="queries and bank",
            do="scale the features down, or use cosine similarity",
        )
    return rounded


def _in_order(similarity: torch.Tensor, index: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first k of each row [Q, n] by descending similarity, then ascending index."""
    index, order = index.sort(dim=1)
    similarity, again = similarity.gather(1, order).sort(dim=1, descending=True, stable=True)
    return similarity[:, :k].contiguous(), index.gather(1, again[:, :k])


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
        raise SettingsError(wanted=wanted, got=f"k = {k}", where="neighbours", do="use a smaller k")
    if metric not in ("cosine", "dot"):
        raise SettingsError(wanted="cosine or dot", got=repr(metric), where="metric", do="use one of these")
    if backend not in ("torch", "faiss"):
        raise SettingsError(wanted="torch or faiss", got=repr(backend), where="backend", do="use one of these")


def _raw(x: Array, device: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """Rows as float32 on the device, unscaled."""
    return rows(x, start, len(x) if stop is None else stop).to(device=device, dtype=torch.float32)


def _compare(
    q: torch.Tensor, bank: Array, index: torch.Tensor, wanted: torch.Tensor, metric: Metric, device: str, size: int
) -> torch.Tensor:
    """Similarities float64 [Q, n] of queries [Q, D] with bank rows index [Q, n] where wanted; -inf elsewhere.

    Reads the bank once more.
    """
    exact = torch.full(index.shape, -torch.inf, dtype=torch.float64, device=device)
    norms = fixed_order.norm(q) if metric == "cosine" else None
    for start in range(0, len(bank), size):
        stop = min(start + size, len(bank))
        query, column = (wanted & (index >= start) & (index < stop)).nonzero(as_tuple=True)
        if len(query):
            block = _raw(bank, device, start, stop)
            exact[query, column] = _pairs(q, norms, block, query, index[query, column] - start)
    return exact


def _pairs(
    q: torch.Tensor, norms: torch.Tensor | None, block: torch.Tensor, query: torch.Tensor, row: torch.Tensor
) -> torch.Tensor:
    """Similarities [n] float64 of pairs (query [n], row [n]) from q [Q, D] and block [N, D]; cosines with `norms`."""
    exact = fixed_order.pair_dots(block, row, q, query)
    if norms is not None:
        used = torch.zeros(len(block), dtype=torch.bool, device=block.device)
        used[row] = True
        lengths = torch.ones(len(block), dtype=torch.float64, device=block.device)
        lengths[used] = fixed_order.norm(block[used])
        exact /= norms[query] * lengths[row]
    return exact


def _exhaustive(
    q: torch.Tensor, bank: Array, k: int, metric: Metric, scale: int, device: str, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities [Q, k] float64 and indices for queries with more ties at the k-th neighbour than candidates.

    A float64 product leaves few pairs to compare, except among equal rows.
    """
    unit = prepare(q, metric, "queries", dtype=torch.float64)
    norms = fixed_order.norm(q) if metric == "cosine" else None
    best = torch.empty(len(q), 0, dtype=torch.float64, device=device)
    index = torch.empty(len(q), 0, dtype=torch.int64, device=device)
    size = min(size, max(1, PAIRS // max(len(q), 1)))
    for start in range(0, len(bank), size):
        block = _raw(bank, device, start, min(start + size, len(bank)))
        approximate = unit @ prepare(block, metric, "bank", start, dtype=torch.float64, scale=scale).T
        values, columns = best_in_block(q, norms, block, approximate, k)
        best, order = torch.cat([best, values], dim=1).sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, columns + start], dim=1).gather(1, order)[:, :k]
        best = best[:, :k]
    return best, index


def best_in_block(
    q: torch.Tensor, norms: torch.Tensor | None, block: torch.Tensor, approximate: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The min(k, n) most similar rows of a block, sorted: similarities float64 and columns int64 [Q, min(k, n)].

    Args:
        q: [Q, D] float32. norms: `fixed_order.norm` of q for cosines, None for inner products. block: [n, D] float32.
        approximate: [Q, n] float64, products of q and block with rows normalised, or scaled to norms of at most 1.
    """
    margin = 2 * fixed_order.product_error(q.shape[1], torch.float64)
    kept = min(k, len(block))
    near = approximate >= approximate.topk(kept, dim=1).values[:, -1:] - margin
    candidates, group = _distinct(block, near.any(dim=0))
    num_groups = int(group.max()) + 1
    hits = torch.zeros(len(q), num_groups, dtype=torch.int32, device=block.device)
    query, number = (hits.index_add_(1, group, near[:, candidates].int()) > 0).nonzero(as_tuple=True)
    member = torch.empty(num_groups, dtype=torch.int64, device=block.device)
    member[group] = candidates  # any row of each group: they are equal
    once = approximate.new_full((len(q), num_groups), -torch.inf)
    once[query, number] = _pairs(q, norms, block, query, member[number])
    exact = torch.full_like(approximate, -torch.inf)
    exact[:, candidates] = once[:, group].where(near[:, candidates], -torch.inf)
    return top(exact, kept)


def _distinct(block: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices [n] of the rows in the mask, and for each the number of its group of bitwise equal rows [n]."""
    candidates = mask.nonzero().flatten()
    values = np.ascontiguousarray(block[candidates].cpu().numpy())
    as_bytes = values.view(np.dtype((np.void, values.itemsize * values.shape[1]))).ravel()
    return candidates, torch.from_numpy(np.unique(as_bytes, return_inverse=True)[1]).to(block.device)
