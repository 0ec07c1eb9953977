"""To a device and back without waiting for it: a blocking copy would wait for all that it has still to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def sent(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers, nested lists of any shape, as a tensor on the device."""
    return to_device(torch.tensor(values, dtype=dtype), device)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; from page-locked memory where it is CUDA, so that the host goes on at once."""
    if device.type == "cuda" and x.device.type == "cpu" and torch.cuda.is_available():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


class Sender:
    """Sends large tensors beside the computation: on CUDA by a second stream, so that a copy waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, x: Tensor) -> Tensor:
        """x on the device; work that is queued from now on waits for it."""
        if self.stream is None:
            return x.to(self.device, non_blocking=True)
        with torch.cuda.stream(self.stream):
            there = x.pin_memory().to(self.device, non_blocking=True)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self.stream)
        there.record_stream(now)  # its memory is not given away before that work is done
        return there


def read_back(x: Tensor) -> Callable[[], Tensor]:
    """Begin to copy x to the host; what is returned waits for the copy and gives it."""
    if x.device.type != "cuda":
        return x.cpu
    there = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    there.copy_(x, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(x.device))

    def wait() -> Tensor:
        done.synchronize()
        return there

    return wait
