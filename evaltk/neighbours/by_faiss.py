"""Candidates for the nearest-neighbour search by faiss, block by block. Needs the extra `faiss` or `faiss-gpu`."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from evaltk.errors import SettingsError


def propose(
    q: torch.Tensor, blocks: Iterable[tuple[int, torch.Tensor]], keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `keep` largest products [Q, keep] float32, descending, of q [Q, D] with all blocks' rows, and their indices.

    Raises: SettingsError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise SettingsError(
            wanted="faiss", got="not installed", where="--knn.backend faiss", do="pip install 'evaltk[faiss]'"
        ) from error
    best, index = torch.empty(len(q), 0), torch.empty(len(q), 0, dtype=torch.int64)
    queries = q.contiguous().numpy()
    for start, rows in blocks:
        flat = faiss.IndexFlatIP(rows.shape[1])
        flat.add(rows.contiguous().numpy())
        values, columns = (torch.from_numpy(a) for a in flat.search(queries, min(keep, len(rows))))
        best, index = torch.cat([best, values], dim=1), torch.cat([index, columns + start], dim=1)
        best, order = best.topk(min(keep, best.shape[1]), dim=1)
        index = index.gather(1, order)
    return best, index
