"""Independent pieces of work spread over threads, each of which runs single-threaded torch.

torch splits every operation over its threads and waits for the slowest. When other processes compete for the cores, the
slowest thread is one that was descheduled, and every operation takes a scheduler period. Threads that take pieces from
a queue and never wait for each other lose only their share of the cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")
_THREADS: ContextVar[int] = ContextVar("threads", default=0)  # of `each`, 0: as many as torch uses


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch uses one thread in this thread; the previous number is restored afterwards.

    A thread whose first use of torch falls inside another thread's block also starts with one thread.
    """
    before = torch.get_num_threads()  # also makes a new thread read the process-wide number now rather than later
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def small_operations() -> Iterator[None]:
    """Inside, operations of torch use one thread, which is faster for small ones, and `each` as many as outside."""
    token = _THREADS.set(_THREADS.get() or torch.get_num_threads())
    try:
        with one_thread():
            yield
    finally:
        _THREADS.reset(token)


def each(work: Callable[[T], None], pieces: Iterable[T], device: torch.device) -> None:
    """Call `work` once per piece, in as many threads as torch uses here, this thread included; nested calls in one.

    On devices other than the CPU, which run asynchronously anyway, this thread does everything. Grad and inference mode
    are those of the caller. The first error stops the queue and is raised; pieces already started are finished.
    """
    if device.type != "cpu":
        for piece in pieces:
            work(piece)
        return
    left = deque(pieces)
    threads = min(_THREADS.get() or torch.get_num_threads(), len(left))
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def take() -> None:
        token = _THREADS.set(1)  # for work that calls `each` itself
        try:
            while True:
                try:
                    piece = left.popleft()
                except IndexError:
                    return
                work(piece)
        finally:
            left.clear()
            _THREADS.reset(token)

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
