"""Work spread over threads that never wait for one another until all of it is done.

torch splits each operation over its threads and waits for the slowest: where other programs use the cores, every one of
thousands of small operations waits for a thread that is not running. Here each thread takes whole parts of the work and
runs their operations alone, so a thread that has to wait delays its own part only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")


def each(task: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """Call task(part) for each part, on as many threads as torch uses here, in no particular order.

    What a task computes must not depend on the order, and no two parts may write to the same place. The first exception
    is raised, once the parts that have begun are done.
    """
    parts = list(parts)
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(parts) < 2:
        for part in parts:
            task(part)
        return
    try:
        # The setting belongs to the thread that makes it; only threads that are started later take it over.
        with ThreadPoolExecutor(min(num_threads, len(parts)), "part", lambda: torch.set_num_threads(1)) as pool:
            waiting = [pool.submit(task, part) for part in parts]
            try:
                for future in waiting:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(num_threads)
