"""Rank, world size and the few collectives we need; in a single process each is the identity."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist

from evaltk.errors import SettingsError

TIMEOUT = datetime.timedelta(hours=12)  # the other processes wait while the main one scores, or for a slow disk


_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def active() -> bool:
    """Whether a process group is initialized, and this process works with it."""
    return dist.is_available() and dist.is_initialized() and not _ALONE.get()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process waits for no other: one process of a training may evaluate while the others do not."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    """Whether this is the process that writes results and logs (rank 0)."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if active():
        dist.barrier()


def all_reduce(tensor: torch.Tensor, op: str = "sum") -> torch.Tensor:
    """The elementwise sum, mean or maximum over processes as a new tensor (op: "sum" | "mean" | "max")."""
    if not active():
        return tensor
    out = tensor.detach().clone()
    dist.all_reduce(out, op=dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM)
    return out / world_size() if op == "mean" else out


def broadcast_object(value: object) -> object:
    """Rank 0's `value` on every process (a plain value: numbers, strings, lists)."""
    if not active():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def process_group(device: str = "cpu") -> Iterator[None]:
    """Join the process group that torchrun started (a no-op without torchrun); NCCL on GPUs, gloo on CPUs.

    Raises: SettingsError: more processes than GPUs on this machine, or one GPU named for all of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or active():
        yield
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda:") and device != f"cuda:{local}":
        raise SettingsError(
            wanted="a GPU for each process",
            got=f"{device} for local process {local} too",
            where="--device",
            do="--device cuda: each process takes its own",
        )
    if device.startswith("cuda"):
        if local >= torch.cuda.device_count():
            raise SettingsError(
                wanted=f"a GPU for local process {local}",
                got=f"{torch.cuda.device_count()} GPUs",
                where="torchrun --nproc-per-node",
                do="start at most one process per GPU",
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()
