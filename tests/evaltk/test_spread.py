"""Pieces of work over threads: each once, none of them splitting its operations, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from evaltk import spread


@pytest.mark.parametrize("number", [1, 2, 3])
def test_pieces_are_each_worked_on_once_by_threads_that_compute_alone(
    number: int, threads: Callable[[int], None]
) -> None:
    threads(number)
    seen, met = [], threading.Barrier(number)

    def work(piece: int) -> None:
        if piece < number:
            met.wait(timeout=600)  # so many threads there are indeed
        seen.append((piece, torch.get_num_threads(), threading.get_ident(), torch.is_inference_mode_enabled()))

    with torch.inference_mode():
        spread.each(work, range(20), torch.device("cpu"))
    assert sorted(piece for piece, *_ in seen) == list(range(20))
    assert {alone for _, alone, *_ in seen} == {1}
    assert len({ident for *_, ident, _ in seen}) == number
    assert all(mode for *_, mode in seen)
    fresh: list[int] = []
    other = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert (torch.get_num_threads(), fresh) == (number, [number])


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_of_a_piece_ends_the_work_and_is_raised(number: int, threads: Callable[[int], None]) -> None:
    threads(number)
    seen = []

    def work(piece: int) -> None:
        seen.append(piece)
        if piece == 4:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        spread.each(work, range(10_000), torch.device("cpu"))
    assert len(seen) < 10_000
    assert torch.get_num_threads() == number


def test_what_another_device_computes_is_asked_for_by_one_thread() -> None:
    seen = []
    spread.each(lambda piece: seen.append((piece, threading.get_ident())), range(5), torch.device("cuda"))
    assert seen == [(piece, threading.get_ident()) for piece in range(5)]


def test_small_operations_leave_the_threads_to_the_pieces(threads: Callable[[int], None]) -> None:
    threads(3)
    met, seen = threading.Barrier(3), []

    def work(piece: int) -> None:
        met.wait(timeout=600)
        inside: list[int] = []
        spread.each(lambda _: inside.append(threading.get_ident()), range(4), torch.device("cpu"))
        seen.append((torch.get_num_threads(), set(inside) == {threading.get_ident()}))

    with spread.small_operations():
        assert torch.get_num_threads() == 1
        with spread.small_operations():
            spread.each(work, range(3), torch.device("cpu"))
    assert seen == [(1, True)] * 3 and torch.get_num_threads() == 3
