"""Neighbours by way of products of bfloat16: the same bits as by float32, whatever the rows; and its bound holds."""

from __future__ import annotations

import pytest
import torch

from evaltk import neighbours
from evaltk.neighbours import blocks, exact, halves
from evaltk.neighbours.blocks import Metric


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near_ties() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that bfloat16 cannot tell apart, some of them equal; row 400 is the query itself."""
    query = draws(0, 1, 48)
    bank = query + 1e-4 * draws(1, 400, 48)
    bank[100:140] = bank[7]
    return torch.cat([query, -query, draws(2, 6, 48)]), torch.cat([bank, query, draws(3, 300, 48)])


def spread_out() -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters with room between them, as features have."""
    centres = draws(4, 30, 48)
    points = centres.repeat_interleave(8, dim=0) + 0.2 * draws(5, 240, 48)
    return points[::7], torch.cat([points, 3 * draws(6, 400, 48)])


def scales() -> tuple[torch.Tensor, torch.Tensor]:
    """Norms from 1e-6 to 1e6, and tiny components that bfloat16 keeps or flushes."""
    sizes = 10 ** torch.linspace(-6, 6, 300)[:, None]
    bank = draws(7, 300, 48) * sizes
    bank[:, ::5] *= 1e-30
    return draws(8, 9, 48) * 1e-3, bank


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("rows", [near_ties, spread_out, scales])
def test_it_is_float32s_to_the_bit(rows: object, metric: Metric) -> None:
    queries, bank = rows()  # type: ignore[operator]
    for k in (1, 5, 150):
        wanted = neighbours.search(queries, bank, k, metric=metric, bf16=False)
        got = neighbours.search(queries, bank, k, metric=metric, bf16=True, query_block=5, bank_block=96)
        assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("rows", [near_ties, spread_out, scales])
def test_no_product_is_further_off_than_its_bound(rows: object, metric: Metric) -> None:
    queries, bank = rows()  # type: ignore[operator]
    scale = blocks.shift(bank, 100) if metric == "dot" else 0
    given = {"metric": metric, "scale": scale, "device": "cpu", "query_block": 4, "bank_block": 64}
    product, index, error = halves.propose(queries, bank, 100, **given)  # type: ignore[arg-type]
    q = blocks.prepare(queries, metric, "queries", dtype=torch.float64)
    b = blocks.prepare(bank, metric, "bank", dtype=torch.float64, scale=scale)
    off = (product.double() - (q @ b.T).gather(1, index)).abs()
    assert bool((off <= error[:, None]).all())
    assert float(error.max()) < 0.02
    assert float(off.max()) > 1e-4  # they are products of bfloat16


def test_only_what_is_open_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []
    real = exact._through_float32

    def counting(queries: torch.Tensor, task: object) -> object:
        again.append(len(queries))
        return real(queries, task)  # type: ignore[arg-type]

    monkeypatch.setattr(exact, "_through_float32", counting)
    for queries, bank in (spread_out(), near_ties()):
        neighbours.search(queries, bank, 5, bf16=True)
    assert again == [1]  # the query among rows that are all but equal; its opposite is far from all of them


def test_it_is_used_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert halves.worth("cpu", halves.FEWEST) and not halves.worth("cpu", halves.FEWEST - 1)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert not halves.worth("cpu", 1 << 40) and not halves.worth("mps", 1 << 40)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not halves.worth("cuda", 1 << 40)
