"""Independent pieces of work over threads, each of which computes by itself.

torch splits every operation over its threads and waits for the slowest at its end. Where other processes want the
cores too, the slowest is one that waits for its turn, and each operation takes as long as the scheduler's round. Pieces
taken from a queue by threads that never wait for each other lose nothing but their share of the cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


@contextmanager
def one_thread() -> Iterator[None]:
    """What this thread computes inside, it computes alone; its number of threads is restored at the end.

    A thread that first uses torch while another is in here starts with one thread as well.
    """
    before = torch.get_num_threads()  # also gives a new thread the process's number, which would come later otherwise
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each(work: Callable[[T], None], pieces: Iterable[T], device: torch.device) -> None:
    """Call `work` once for every piece, in as many threads as torch has here; this thread is one of them.

    On a device other than the CPU, which computes meanwhile anyway, this thread takes all. Gradients are recorded, or
    not, as outside. The first error ends the work and is raised; pieces begun are finished.
    """
    if device.type != "cpu":
        for piece in pieces:
            work(piece)
        return
    left = deque(pieces)
    threads = min(torch.get_num_threads(), len(left))
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def take() -> None:
        try:
            while True:
                try:
                    piece = left.popleft()
                except IndexError:
                    return
                work(piece)
        finally:
            left.clear()

    def help_out() -> None:
        torch.get_num_threads()  # see one_thread
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            take()

    with one_thread():
        if threads < 2:
            take()
            return
        with ThreadPoolExecutor(threads - 1) as pool:
            helpers = [pool.submit(help_out) for _ in range(threads - 1)]
            take()
        for helper in helpers:
            helper.result()
