"""Rank, world size and the few collectives we need; in a single process each is the identity."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist

from evaltk import crew, launchers
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


def gather_objects(value: object) -> list[object]:
    """Every process's `value` by rank, on every process (plain values: numbers, strings, tuples of them)."""
    if not active():
        return [value]
    values: list[object] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def process_group(device: str = "cpu") -> Iterator[None]:
    """Join the process group that torchrun started (a no-op without torchrun); NCCL on GPUs, gloo on CPUs.

    After an error the group stays as it is, since taking it down may wait for the others: `crew` ends the process.

    Raises: SettingsError: more processes than GPUs on this machine, one GPU named for all of them, or a contradictory
        environment.
    """
    place = launchers.place(os.environ)
    if place is None or active():
        yield
        return
    own = launchers.device_number(place, torch.cuda.device_count()) if device.startswith("cuda") else 0
    if device.startswith("cuda:") and device != f"cuda:{own}":
        raise SettingsError(
            wanted="a GPU for each process",
            got=f"{device} for local process {place.local} too",
            where="--device",
            do="--device cuda: each process takes its own",
        )
    if device.startswith("cuda"):
        torch.cuda.set_device(own)
    backend, mine = "nccl" if device.startswith("cuda") else "gloo", crew.current()
    if mine is None:
        dist.init_process_group(backend, timeout=TIMEOUT)
    else:
        dist.init_process_group(backend, timeout=TIMEOUT, store=mine.store, rank=place.rank, world_size=place.world)
    yield
    dist.destroy_process_group()
