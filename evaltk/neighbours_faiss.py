"""The same search by faiss, block by block, with ties put in our order. Needs the extra `faiss` or `faiss-gpu`."""

from __future__ import annotations

import torch

from evaltk.errors import SettingsError
from evaltk.neighbours import Array, Metric, blocks, prepare, top


def search(
    queries: Array, bank: Array, k: int, *, metric: Metric, bank_block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `neighbours.search`. Rows whose last neighbour is not unique are searched again by torch, in exact order.

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
    for start, part in blocks(bank, metric, bank_block, "cpu"):
        index = faiss.IndexFlatIP(part.shape[1])
        index.add(part.contiguous().numpy())
        found = min(k + 1, len(part))
        s, i = (torch.from_numpy(a) for a in index.search(q.contiguous().numpy(), found))
        kept = min(k, len(part))
        # faiss's own products may differ from torch's in the last bit; equal similarities are its own, like topk's.
        i, order = i.sort(dim=1)
        s, again = s.gather(1, order).sort(dim=1, descending=True, stable=True)
        i = i.gather(1, again)
        if found > kept:
            unsure = (s[:, kept - 1] == s[:, kept]).nonzero().flatten()
            for row in unsure.tolist():
                exact_s, exact_i = top(q[row : row + 1] @ part.T, kept)
                s[row, :kept], i[row, :kept] = exact_s[0], exact_i[0]
        s, i = s[:, :kept], i[:, :kept]
        joined_s, joined_i = torch.cat([best_s, s], 1), torch.cat([best_i, i + start], 1)
        best_s, order = joined_s.sort(dim=1, descending=True, stable=True)
        best_s, best_i = best_s[:, :k], joined_i.gather(1, order[:, :k])
    return best_s, best_i
