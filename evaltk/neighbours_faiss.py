"""The same search by faiss, block by block, with ties put in our order. Needs the extra `faiss` or `faiss-gpu`."""

from __future__ import annotations

import torch

from evaltk import neighbours
from evaltk.errors import SettingsError
from evaltk.neighbours import Array, Metric, blocks, prepare


def search(
    queries: Array, bank: Array, k: int, *, metric: Metric, bank_block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `neighbours.search`. Queries whose last neighbour in a block is not unique are searched again by torch.

    Raises: SettingsError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise SettingsError(
            wanted="faiss", got="no such package", where="--knn.backend faiss", do="pip install 'evaltk[faiss]'"
        ) from error
    q = prepare(queries, metric, "queries")
    best_s, best_i = torch.empty(len(q), 0), torch.empty(len(q), 0, dtype=torch.int64)
    open_rows = torch.zeros(len(q), dtype=torch.bool)
    for first, rows, again in blocks(bank, metric, bank_block, "cpu"):
        start, part = first + again, rows[again:]
        index = faiss.IndexFlatIP(part.shape[1])
        index.add(part.contiguous().numpy())
        kept = min(k, len(part))
        found = index.search(q.contiguous().numpy(), min(k + 1, len(part)))
        s, i = (torch.from_numpy(a) for a in found)
        if s.shape[1] > kept:  # which of equal similarities faiss leaves out is open
            open_rows |= s[:, kept - 1] == s[:, kept]
        i, order = i[:, :kept].sort(dim=1)
        joined_s, joined_i = torch.cat([best_s, s.gather(1, order)], 1), torch.cat([best_i, i + start], 1)
        # Stable: of equal similarities those of the smaller index stand in front.
        best_s, order = joined_s.sort(dim=1, descending=True, stable=True)
        best_s, best_i = best_s[:, :k], joined_i.gather(1, order[:, :k])
    if bool(open_rows.any()):
        exact = neighbours.search(q[open_rows], bank, k, metric=metric, bank_block=bank_block)
        best_s[open_rows], best_i[open_rows] = exact
    return best_s, best_i
