"""Candidates by products of bfloat16, several times as fast on GPUs and on CPUs with AMX, with a bound on their error.

How far rounding moves a row is measured, which bounds the error far closer than the worst case of bfloat16:
|<q', b'> - <q, b>| <= |q' - q| |b'| + |q| |b' - b|, plus that of float32 sums and, on CPUs, of the rounded result.
"""

from __future__ import annotations

import torch

from evaltk import fixed_order
from evaltk.neighbours.blocks import Array, Best, Metric, block_size, blocks, prepare

FEWEST = 1 << 28  # pairs below which rounding the rows and comparing more candidates costs what the products save
STORED = 2.0**-8  # the relative error of a result stored as bfloat16, doubled for hardware that truncates
SLACK = 1 + 2.0**-10  # for the rounding of the errors' own norms, and what is flushed to zero


def worth(device: str, pairs: int) -> bool:
    """Whether the device multiplies bfloat16 faster than float32, and there are enough pairs."""
    return pairs >= FEWEST and (_on_card(device) if device.startswith("cuda") else device == "cpu" and _has_amx())


def candidates(k: int) -> int:
    """How many are kept: of more than in float32 the order is open."""
    return 2 * k + 64


def propose(
    queries: Array,
    bank: Array,
    keep: int,
    *,
    metric: Metric,
    scale: int,
    device: str,
    query_block: int,
    bank_block: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `blocks.propose`, by products of rows rounded to bfloat16.

    Returns: products [Q, keep] float32, descending; their rows [Q, keep]; a bound on each query's errors [Q] float64.
    """
    q = prepare(queries, metric, "queries", device=device)
    q_half, q_moved = _rounded(q)
    parts = [Best(part, keep, torch.float32) for part in q_half.split(query_block)]
    scratch = torch.empty(min(query_block, len(q)) * block_size(len(bank), bank_block), device=q.device)
    bank_moved = torch.zeros((), dtype=torch.float64, device=q.device)
    for start, block in blocks(bank, metric, bank_block, device, scale=scale):
        half, moved = _rounded(block)
        bank_moved = torch.maximum(bank_moved, moved.max())
        for best in parts:
            best.fold(_products(best.queries, half, scratch), start)
    error = (q_moved * (1 + bank_moved) + bank_moved) * SLACK + fixed_order.product_error(q.shape[1], torch.float32)
    if q.device.type == "cpu":
        error += STORED * (1 + q_moved) * (1 + bank_moved) * SLACK
    return torch.cat([b.similarity for b in parts]), torch.cat([b.index for b in parts]), error


def _rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows x [n, D] in bfloat16, and how far each has moved [n], float64."""
    half = x.bfloat16()
    return half, torch.linalg.vector_norm(x - half.float(), dim=1, dtype=torch.float64)


def _products(part: torch.Tensor, block: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """part [q, D] @ block.T [D, n], float32, in the memory of `scratch`."""
    out = scratch[: len(part) * len(block)].view(len(part), len(block))
    if part.device.type == "cuda":
        # Neither the result nor sums of parts are rounded to bfloat16.
        return torch.mm(part, block.T, out_dtype=torch.float32, out=out)  # type: ignore[call-overload,no-any-return]
    return out.copy_(part @ block.T)


def _on_card(device: str) -> bool:
    """CUDA from Ampere on, with a torch (from 2.8 on) that gives products of bfloat16 in float32; tried out."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    third = torch.full((16, 16), 1 / 3, device=device, dtype=torch.bfloat16)
    try:
        product = _products(third, third, torch.empty(256, device=device))
    except (RuntimeError, TypeError):
        return False
    return bool((product.double() == 16 * third.double().square()).all())  # 16 bits: bfloat16 would round it


def _has_amx() -> bool:
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(asked is not None and asked() and torch.backends.mkldnn.is_available())
