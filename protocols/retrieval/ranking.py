"""Rank a database for each query, with distractors counted blockwise and whitening fitted on another dataset.

Similarities are cosines in a fixed order of summation (`fixed_order`), so equal images tie on every processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaltk import fixed_order, neighbours
from evaltk.errors import DataError, SettingsError
from evaltk.metrics import retrieval

BLOCK = 32_768  # distractors per block
FLAT = 1e-10  # directions with less than this fraction of the largest variance are noise and are dropped


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whitening:
    """y = (x - mean) @ projection, then unit norm; mean [D], projection [D, d]."""

    mean: torch.Tensor
    projection: torch.Tensor

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Unit rows [N, D] -> unit rows [N, d] float32; equal rows give equal rows."""
        return _unit(fixed_order.matmul(x - self.mean, self.projection).float())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Rankings of a database with distractors.

    Attributes:
        order: [Q, N] int64, database images, best match first, ties by index.
        ahead: [Q, N] int64, number of distractors ranked before each of them. num_distractors: their total.
        top: [Q, K] int64, the first K of the full ranking; distractors are N + their index.
    """

    order: np.ndarray
    ahead: np.ndarray
    num_distractors: int
    top: np.ndarray


def learn_whitening(x: np.ndarray, dims: int | None = None) -> Whitening:
    """Fit PCA whitening on normalised descriptors [N, D] of another dataset, keeping the top `dims` components.

    Raises: SettingsError: more dims than the data has. DataError: rows that are zero or not finite.
    """
    rows = neighbours.prepare(x, "cosine", "whitening set").double()
    mean = rows.mean(dim=0)
    centred = rows - mean
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(rows))  # ascending
    rank = int((variance > FLAT * variance[-1]).sum())
    if dims is not None and not 1 <= dims <= rank:
        raise SettingsError(
            wanted=f"1 to {rank} dimensions, the rank of the whitening set",
            got=str(dims),
            where="--retrieval.whiten-dims",
            do="use fewer dimensions, or a larger whitening set",
        )
    kept = slice(len(variance) - (dims or rank), None)
    projection = directions[:, kept].flip(1) / variance[kept].flip(0).sqrt()
    return Whitening(mean=mean.float(), projection=projection.float())


def rank(
    queries: np.ndarray,
    database: np.ndarray,
    *,
    distractors: np.ndarray | None = None,
    whitening: Whitening | None = None,
    keep: int = 100,
    block: int = BLOCK,
) -> Ranking:
    """Rank the database for each query by descending cosine, then ascending index.

    Args:
        queries: [Q, D]. database: [N, D]. distractors: [M, D] or None; a memory-mapped array is read block by block.
            They are ranked after database images of equal similarity. keep: length of `top`.

    Raises: DataError: rows that are zero or not finite, distractors of another dimension.
    """
    if distractors is not None and (distractors.ndim != 2 or distractors.shape[1] != database.shape[1]):
        raise DataError(
            wanted=f"distractors [M, {database.shape[1]}]",
            got=str(list(distractors.shape)),
            where="--retrieval.distractors",
            do="extract them with the same checkpoint and settings",
        )
    q, x = (_rows(rows, what, whitening) for rows, what in ((queries, "queries"), (database, "database")))
    norms = fixed_order.norm(q)
    cosine = torch.empty(len(q), len(x), dtype=torch.float64)
    for query, row in enumerate(cosine):
        row[:] = fixed_order.pair_dots(x, torch.arange(len(x)), q, torch.full((len(x),), query))
    cosine /= norms[:, None] * fixed_order.norm(x)
    similarity, order = cosine.sort(dim=1, descending=True, stable=True)  # [Q, N]
    ahead = torch.zeros_like(order)
    best, index = similarity[:, :keep], order[:, :keep]
    for start, rows in _blocks(distractors, whitening, block):
        approximate = _unit(q, torch.float64) @ _unit(rows, torch.float64).T  # [Q, b]
        ahead += _num_ahead(q, norms, rows, approximate, similarity)
        values, columns = neighbours.best_in_block(q, norms, rows, approximate, keep)
        best, again = torch.cat([best, values], dim=1).sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, columns + start + len(x)], dim=1).gather(1, again)[:, :keep]
        best = best[:, :keep]
    return Ranking(
        order=order.numpy(),
        ahead=ahead.numpy(),
        num_distractors=0 if distractors is None else len(distractors),
        top=index.numpy(),
    )


def _rows(x: np.ndarray, what: str, whitening: Whitening | None, first: int = 0) -> torch.Tensor:
    """Validated rows [N, D] float32, whitened if `whitening` is given."""
    rows = neighbours.rows(x, 0, len(x)).float()
    neighbours.prepare(rows, "cosine", what, first)
    return rows if whitening is None else whitening.apply(_unit(rows))


def _unit(rows: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (rows.double() / fixed_order.norm(rows)[:, None]).to(dtype)


def _num_ahead(
    q: torch.Tensor, norms: torch.Tensor, rows: torch.Tensor, approximate: torch.Tensor, similarity: torch.Tensor
) -> torch.Tensor:
    """Number of distractors of a block ranked before each database image: int64 [Q, N].

    Args:
        q: [Q, D]. norms: of q. rows: [b, D]. approximate: [Q, b] float64, cosines of a matrix product; those within
            rounding of a database image's similarity [Q, N] are recomputed.
    """
    margin = fixed_order.product_error(q.shape[1], torch.float64)
    rising = approximate.sort(dim=1).values
    above = torch.searchsorted(rising, similarity + margin, right=True)
    below = torch.searchsorted(rising, similarity - margin)
    ahead = rising.shape[1] - above
    for query in (above > below).any(dim=1).nonzero().flatten().tolist():
        images = (above[query] > below[query]).nonzero().flatten()
        close = (approximate[query] - similarity[query, images, None]).abs() <= margin  # [images, b]
        columns = close.any(dim=0).nonzero().flatten()
        exact = fixed_order.pair_dots(rows, columns, q, torch.full_like(columns, query))
        exact /= norms[query] * fixed_order.norm(rows[columns])
        ahead[query, images] += ((exact > similarity[query, images, None]) & close[:, columns]).sum(dim=1)
    return ahead


def _blocks(bank: np.ndarray | None, whitening: Whitening | None, size: int) -> Iterator[tuple[int, torch.Tensor]]:
    for start in range(0, 0 if bank is None else len(bank), size):
        assert bank is not None
        block = neighbours.rows(bank, start, min(start + size, len(bank)))
        yield start, _rows(block, "distractors", whitening, start)


def score(ranking: Ranking, gnd: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """`evaltk.metrics.retrieval.per_query`, each [Q], for the ranking including its distractors."""
    num_images, extra = ranking.order.shape[1], ranking.num_distractors
    if not extra:
        return retrieval.per_query(ranking.order, gnd, num_database=num_images)
    parts = []
    for order, ahead, truth in zip(ranking.order, ranking.ahead, gnd, strict=True):
        # Distractors are interchangeable, so a single full row at a time suffices.
        row = np.full(num_images + extra, -1, dtype=np.int64)
        row[np.arange(num_images) + ahead] = order
        row[row < 0] = np.arange(num_images, num_images + extra)
        parts.append(retrieval.per_query(row[None], [truth], num_database=num_images + extra))
    return {
        difficulty: {name: np.concatenate([part[difficulty][name] for part in parts]) for name in parts[0][difficulty]}
        for difficulty in parts[0]
    }
