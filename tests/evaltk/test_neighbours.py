"""Nearest neighbours against a full sort, with exact ties, for any block sizes and any way the rows are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_vectors import integers

from evaltk import fixed_order
from evaltk.errors import DataError, SettingsError
from evaltk.neighbours import blocks as neighbour_blocks
from evaltk.neighbours.blocks import block_size, blocks
from evaltk.neighbours.exact import search

BLOCKS = [(2048, 32768), (1, 1), (3, 7), (2, 32), (5, 64), (16, 33), (1, 100)]


def full_sort(queries: torch.Tensor, bank: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By the definition: all dot products in float64, sorted by (similarity falling, index rising)."""
    s = queries.double() @ bank.double().T
    values, index = s.sort(dim=1, descending=True, stable=True)
    return values[:, :k].float(), index[:, :k]


def check(queries: torch.Tensor, bank: torch.Tensor, k: int, **how: object) -> None:
    expected_s, expected_i = full_sort(queries, bank, k)
    s, i = search(queries, bank, k, metric="dot", **how)
    assert s.dtype == torch.float32 and i.dtype == torch.int64
    assert torch.equal(s, expected_s) and torch.equal(i, expected_i)


@pytest.mark.parametrize(("query_block", "bank_block"), BLOCKS)
@pytest.mark.parametrize("k", [1, 5, 32, 99, 100])
def test_full_sort_with_ties(query_block: int, bank_block: int, k: int) -> None:
    queries, bank = integers(17, 3, 0), integers(100, 3, 1)  # 125 different rows at most: ties everywhere
    check(queries, bank, k, query_block=query_block, bank_block=bank_block)


@pytest.mark.parametrize("num_queries", [1, 2, 33])
@pytest.mark.parametrize("num_bank", [1, 2, 31, 32, 33, 64, 257])
def test_any_number_of_rows(num_queries: int, num_bank: int) -> None:
    queries, bank = integers(num_queries, 4, 2, levels=1), integers(num_bank, 4, 3, levels=1)
    for bank_block in (32, 50, 64, 1024):
        for k in {1, (num_bank + 1) // 2, num_bank}:
            check(queries, bank, k, bank_block=bank_block, query_block=32)


def test_constant_blocks_and_repeated_rows() -> None:
    bank = torch.cat([torch.ones(70, 4), integers(30, 4, 4), torch.ones(70, 4), 2 * torch.ones(3, 4), torch.ones(9, 4)])
    queries = torch.cat([torch.ones(2, 4), integers(5, 4, 5), torch.zeros(1, 4)])
    for bank_block in (32, 35, 64, 1000):
        for k in (1, 3, 64, 150, 182):
            check(queries, bank, k, bank_block=bank_block)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_property(data: st.DataObject) -> None:
    num_bank = data.draw(st.integers(1, 150), label="bank")
    queries = integers(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5), label="dim"), 0)
    bank = integers(num_bank, queries.shape[1], data.draw(st.integers(0, 10)), levels=data.draw(st.integers(0, 3)))
    k = data.draw(st.integers(1, num_bank), label="k")
    sizes = {"query_block": data.draw(st.integers(1, 12)), "bank_block": data.draw(st.integers(1, 160))}
    check(queries, bank, k, **sizes)
    size = sizes["bank_block"]
    met = [range(start, start + len(part)) for start, part in blocks(bank, "dot", size, "cpu")]
    assert [row for rows_ in met for row in rows_] == list(range(num_bank))  # each row once, in order
    assert block_size(num_bank, size) <= size


def test_cosine_is_the_dot_product_of_unit_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(n, 24, generator=draw) * 10 ** torch.randn(n, 1, generator=draw) for n in (40, 500))
    unit_q, unit_b = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (queries, bank))
    s, i = search(queries, bank, 50, bank_block=64)
    values, index = (unit_q @ unit_b.T).sort(dim=1, descending=True)
    torch.testing.assert_close(s, values[:, :50].float(), rtol=0, atol=1e-6)
    assert (i == index[:, :50]).float().mean() > 0.999
    assert (s[:, :-1] >= s[:, 1:]).all()


@pytest.mark.parametrize("dim", [7, 48, 384])
@pytest.mark.parametrize("num_queries", [1, 2, 7, 34])
def test_equal_rows_stand_in_order_whatever_the_blocks(dim: int, num_queries: int) -> None:
    """Products round by the shape of the block and the place in it; equal rows must not be told apart by that."""
    draw = torch.Generator().manual_seed(dim)
    bank = torch.randn(50, dim, generator=draw).repeat(21, 1)
    queries = torch.randn(num_queries, dim, generator=draw)
    for query_block, bank_block in ((2048, 32768), (7, 129), (33, 1000), (1, 997), (16, 37)):
        _, index = search(queries, bank, 63, query_block=query_block, bank_block=bank_block)
        groups = index.view(num_queries, 3, 21)
        assert (groups % 50 == groups[..., :1] % 50).all() and (groups.diff(dim=2) > 0).all(), (query_block, bank_block)


def cosines(queries: torch.Tensor, bank: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By the definition, one query at a time, with numpy's float64 sums; equal ones by index."""
    q, b = queries.numpy().astype(np.float64), bank.numpy().astype(np.float64)
    s = np.stack([(b * row).sum(1) / np.sqrt((b * b).sum(1)) / np.sqrt((row * row).sum()) for row in q])
    order = np.argsort(-s, axis=1, kind="stable")[:, :k]
    return torch.from_numpy(np.take_along_axis(s, order, 1)).float(), torch.from_numpy(order)


BACKENDS = ["torch", "faiss"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 20, 500, 600])
def test_a_bank_of_one_row_repeated(backend: str, k: int) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    draw = torch.Generator().manual_seed(0)
    bank = torch.randn(1, 48, generator=draw).repeat(600, 1)
    queries = torch.randn(5, 48, generator=draw)
    for blocks_ in ((2048, 32768), (2, 64), (3, 37)):
        s, i = search(queries, bank, k, backend=backend, query_block=blocks_[0], bank_block=blocks_[1])
        assert torch.equal(i, torch.arange(k).expand(5, k)) and (s == s[:, :1]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_differ_in_the_last_bit(backend: str) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    draw = torch.Generator().manual_seed(1)
    bank = torch.randn(1, 64, generator=draw).repeat(400, 1)
    for row in range(400):  # most rows one step away in one place, some equal
        if row % 7:
            up = torch.tensor(torch.inf if row % 2 else -torch.inf)
            bank[row, row % 64] = torch.nextafter(bank[row, row % 64], up)
    queries = torch.randn(6, 64, generator=draw)
    expected_s, expected_i = cosines(queries, bank, 30)
    for bank_block in (32768, 64, 37):
        s, i = search(queries, bank, 30, backend=backend, bank_block=bank_block)
        assert torch.equal(s, expected_s) and torch.equal(i, expected_i)


def test_more_near_equals_than_proposed_among_others() -> None:
    draw = torch.Generator().manual_seed(2)
    bank = torch.randn(700, 32, generator=draw)
    bank[100:400] = bank[100]  # 300 equal rows around the k-th
    queries = bank[100] + 0.3 * torch.randn(4, 32, generator=draw)
    expected = cosines(queries, bank, 50)
    for query_block, bank_block in ((2048, 32768), (3, 64), (1, 50)):
        found = search(queries, bank, 50, query_block=query_block, bank_block=bank_block)
        assert torch.equal(found[1], expected[1]) and torch.equal(found[0], expected[0])


@pytest.mark.parametrize("scale", [1e-14, 1e-8, 1e12, 1e25, 3e37])
def test_norms_of_any_size(scale: float) -> None:
    draw = torch.Generator().manual_seed(3)
    queries, bank = torch.randn(8, 24, generator=draw), torch.randn(300, 24, generator=draw)
    expected = cosines(queries * scale, bank * scale, 20)
    for scaled in ((queries * scale, bank * scale), (queries * scale, bank)):
        s, i = search(*scaled, 20, bank_block=64)
        assert torch.equal(i, expected[1])
        torch.testing.assert_close(s, expected[0], rtol=0, atol=2e-7)  # scaling rounds each number once
    _, i = search(queries * 1e-3, bank * scale, 20, metric="dot")
    assert torch.equal(i, full_sort(queries * 1e-3, bank * scale, 20)[1])


def test_denormal_numbers_and_products_beyond_float32() -> None:
    draw = torch.Generator().manual_seed(4)
    queries, bank = torch.randn(8, 24, generator=draw), torch.randn(300, 24, generator=draw)
    tiny = bank * 1e-42  # denormal: a few bits each
    expected = full_sort(queries, tiny, 20)
    i = search(queries, tiny, 20, metric="dot")[1]
    assert torch.equal(i, expected[1])
    with pytest.raises(DataError, match=r"too small \(norm 6e-42\), without a direction; where: bank, row 0"):
        search(queries, tiny, 20)
    bank[:, 0] = 1e-40  # one denormal number in a row of ordinary ones
    assert torch.equal(search(queries, bank, 20)[1], cosines(queries, bank, 20)[1])
    with pytest.raises(DataError, match=r"inner products within float32's range; got one of .*e\+4"):
        search(queries * 1e20, bank * 1e20, 20, metric="dot")
    mixed = torch.cat([bank, bank * 1e30])  # norms 30 powers of ten apart
    assert torch.equal(search(queries, mixed, 400, metric="dot")[1], full_sort(queries, mixed, 400)[1])


def test_nothing_rests_on_the_precision_of_the_product_or_the_threads() -> None:
    draw = torch.Generator().manual_seed(5)
    bank = torch.randn(200, 96, generator=draw).repeat(5, 1)
    queries = torch.randn(40, 96, generator=draw)
    expected = cosines(queries, bank, 33)
    before, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            for num in (1, 2, 3):
                torch.set_num_threads(num)
                s, i = search(queries, bank, 33, bank_block=128)
                assert torch.equal(i, expected[1]) and torch.equal(s, expected[0]), (precision, num)
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_num_threads(threads)


def test_the_margin_is_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products as wrong as the bound allows, in the worst way, change nothing."""
    draw = torch.Generator().manual_seed(6)
    queries, bank = torch.randn(20, 16, generator=draw), torch.randn(2000, 16, generator=draw)
    expected = cosines(queries, bank, 40)
    error = 0.99 * fixed_order.product_error(16, torch.float32)
    real = neighbour_blocks.products

    def spoilt(part: torch.Tensor, block_rows: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        found = real(part, block_rows, scratch)
        return found.add_(error * torch.randn(found.shape, generator=draw).sign())

    monkeypatch.setattr(neighbour_blocks, "products", spoilt)
    for bank_block in (32768, 256):
        found = search(queries, bank, 40, bank_block=bank_block)
        assert torch.equal(found[1], expected[1]) and torch.equal(found[0], expected[0])


@pytest.mark.parametrize("bank_block", [32768, 64, 129, 37])
@pytest.mark.parametrize("num_queries", [1, 40])
def test_faiss_gives_the_same(num_queries: int, bank_block: int) -> None:
    pytest.importorskip("faiss")
    queries, bank = integers(num_queries, 3, 6), integers(300, 3, 7)
    for k in (1, 10, 299, 300):
        check(queries, bank, k, backend="faiss", bank_block=bank_block)
    bank = torch.cat([torch.randn(100, 16, generator=torch.Generator().manual_seed(1))] * 3)
    queries = torch.randn(num_queries, 16, generator=torch.Generator().manual_seed(2))
    (s, i), (other_s, other_i) = (
        search(queries, bank, 20, backend=backend, bank_block=bank_block) for backend in ("torch", "faiss")
    )
    assert torch.equal(i, other_i)
    torch.testing.assert_close(s, other_s, rtol=0, atol=1e-6)


def test_no_queries() -> None:
    bank = torch.randn(10, 4)
    s, i = search(torch.empty(0, 4), bank, 3)
    assert s.shape == i.shape == (0, 3) and i.dtype == torch.int64


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_rows_without_a_direction_are_named(backend: str) -> None:
    bank = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    for value, says in (
        (0.0, "zero, without a direction"),
        (torch.nan, "not finite"),
        (torch.inf, "not finite"),
    ):
        spoilt = bank.clone()
        spoilt[70] = value
        spoilt[77] = value
        with pytest.raises(DataError, match=rf"the first of them {says}; where: bank, row 70"):
            search(bank[:4], spoilt, 3, bank_block=32, backend=backend)
        with pytest.raises(DataError, match=rf"2 rows.*{says}; where: queries, row 70"):
            search(spoilt, bank, 3, backend=backend)
    spoilt = bank.clone()
    spoilt[70] = 0
    assert search(bank[:4], spoilt, 3, metric="dot", backend=backend)[1].shape == (4, 3)  # a product has no such need
    spoilt[70] *= torch.nan
    with pytest.raises(DataError, match="bank, row 70"):
        search(bank[:4], spoilt, 3, metric="dot", backend=backend)
    with pytest.raises(DataError, match="without a direction"):
        search(bank[:4], bank * 1e-25, 3)  # squares that underflow would make a wrong direction


@pytest.mark.parametrize("k", [0, -1, 11])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(SettingsError, match=rf"1 <= k <= 10, the size of the bank; got k = {k}"):
        search(torch.ones(2, 3), torch.ones(10, 3), k)


def test_shapes_and_names_that_will_not_do() -> None:
    bank = torch.ones(10, 3)
    for queries in (torch.ones(2, 4), torch.ones(3), torch.ones(1, 2, 3)):
        with pytest.raises(DataError, match=r"queries \[Q, D\] and bank \[N, D\]"):
            search(queries, bank, 1)
    with pytest.raises(SettingsError, match="cosine or dot"):
        search(bank, bank, 1, metric="euclid")
    with pytest.raises(SettingsError, match="torch or faiss"):
        search(bank, bank, 1, backend="annoy")


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SettingsError, match=r"pip install 'evaltk\[faiss\]'"):
        search(torch.ones(2, 3), torch.ones(10, 3), 1, backend="faiss")


def test_scratch_memory_is_bounded_by_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = neighbour_blocks.products

    def watched(part: torch.Tensor, block_rows: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        seen.append(scratch.numel())
        return real(part, block_rows, scratch)

    monkeypatch.setattr(neighbour_blocks, "products", watched)
    search(torch.randn(100, 4), torch.randn(1000, 4), 5, query_block=10, bank_block=64)
    assert max(seen) == 640 and len(seen) == 10 * 16
