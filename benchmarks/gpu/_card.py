"""What the card reaches: measured, not read from its sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Operations a second of a large product in bf16 and fp32, bytes a second of a copy on the card and to it."""

    bf16: float
    fp32: float
    copy: float
    send: float


class Clock:
    """Times work on a device. quick: sizes for a rehearsal, whose numbers mean nothing."""

    def __init__(self, device: str, *, quick: bool) -> None:
        self.device, self.quick = torch.device(device), quick

    @property
    def card(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until all that was asked for is done."""
        if self.card:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], *, least: float = 1.0, warm: int = 3) -> float:
        """Mean seconds of a call, over at least `least` seconds after `warm` calls."""
        least, warm = (0.0, 1) if self.quick else (least, warm)
        for _ in range(warm):
            work()
        self.wait()
        started, calls = time.perf_counter(), 0
        while True:
            work()
            calls += 1
            if time.perf_counter() - started >= least or calls >= 500:
                self.wait()
                return (time.perf_counter() - started) / calls

    def forget_peak(self) -> None:
        """Begin to measure memory anew."""
        if self.card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float:
        """Gigabytes allocated at most since; 0 where nobody counts."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.card else 0.0


def limits(clock: Clock) -> Limits:
    """Measure them."""
    n = 256 if clock.quick else 8192
    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(n, n, device=clock.device).to(dtype) for _ in range(2))
        rates[dtype] = 2 * n**3 / clock.seconds(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    size = 1 << (20 if clock.quick else 30)
    source, target = (torch.empty(size, dtype=torch.uint8, device=clock.device) for _ in range(2))
    copy = 2 * size / clock.seconds(lambda: target.copy_(source))
    host = torch.empty(size // 4, dtype=torch.uint8, pin_memory=clock.card)
    send = len(host) / clock.seconds(lambda: target[: len(host)].copy_(host, non_blocking=True))
    return Limits(bf16=rates[torch.bfloat16], fp32=rates[torch.float32], copy=copy, send=send)


def operations(work: Callable[[], Any]) -> int:
    """Operations of the matrix products and convolutions of a call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
