"""Images decoded and cropped by worker processes, in the batches asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaltk import distributed, machine, processes
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError

Item = tuple[int, np.ndarray | None, str]  # index, the pixels or None, what was wrong
Load = Callable[[int], np.ndarray]  # the pixels of the image with this index; picklable, for worker processes
AHEAD = 2  # batches that each process decodes ahead, torch's default
FEW = 1024  # images below which starting processes takes longer than they save


def batches(load: Load, indices: list[list[int]], workers: int) -> Iterator[list[Item]]:
    """The images that `indices` name, batch by batch and in order; an unreadable one comes as a message.

    Args:
        load: makes the pixels of an image, mostly `functools.partial(pixels, split, transform)`.
        workers: decoding processes; 0: none beside this one.

    Raises: SettingsError: a decoding process was killed, mostly for lack of memory.
    """
    yield from _loaded(_Images(load), indices, workers, _as_is)


def _loaded(
    images: _Images, indices: list[list[int]], workers: int, collate: Callable[[list[Any]], Any]
) -> Iterator[Any]:
    loader = DataLoader(
        images,
        batch_sampler=indices,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=processes.start_worker,
    )
    do = "use fewer (--workers 0: none beside this one); finished shards are kept"
    yield from processes.items(loader, where="--workers", do=do)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Decoded images. kept: those that could be read. bad: others, and why. pixels: uint8 [n, h, w, 3] of each view."""

    kept: list[int]
    bad: list[tuple[int, str]]
    pixels: list[np.ndarray]


@dataclass(frozen=True, slots=True)
class Views:
    """The pixels of an image for several transforms, decoded once; picklable."""

    split: Split
    transforms: tuple[Transform, ...]

    def __call__(self, index: int) -> tuple[np.ndarray, ...]:
        """uint8 [h, w, 3] for each. Raises: DataError: it cannot be decoded."""
        image = self.split.open(index)
        return tuple(transform.pixels(image) for transform in self.transforms)


def stacked(load: Views, indices: list[list[int]], workers: int) -> Iterator[Batch]:
    """As `batches`, for several transforms; between processes pixels go through shared memory where there is enough.

    Raises: SettingsError: a decoding process was killed, mostly for lack of memory.
    """
    largest = max(map(len, indices), default=0) * sum(3 * t.crop**2 for t in load.transforms)
    collate = _shared if workers and _spare_shared() > 2 * AHEAD * (workers + 1) * largest else _piped
    for kept, bad, views in _loaded(_Images(load), indices, workers, collate):
        yield Batch(kept=kept, bad=bad, pixels=[v.numpy() if isinstance(v, torch.Tensor) else v for v in views])


def _piped(items: list[tuple[int, Any, str]]) -> tuple[list[int], list[tuple[int, str]], list[Any]]:
    good = [(index, views) for index, views, _ in items if views is not None]
    bad = [(index, message) for index, views, message in items if views is None]
    return [index for index, _ in good], bad, [np.stack(view) for view in zip(*(v for _, v in good), strict=True)]


def _shared(items: list[tuple[int, Any, str]]) -> tuple[list[int], list[tuple[int, str]], list[Any]]:
    kept, bad, views = _piped(items)
    try:
        return kept, bad, [torch.from_numpy(view).share_memory_() for view in views]
    except (OSError, RuntimeError):  # it has become full, or files may not be so large
        return kept, bad, views


def _spare_shared() -> int:
    """Bytes of shared memory that are free; containers often have 64 MB in all."""
    try:
        told = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return told.f_bavail * told.f_frsize


def pixels(split: Split, transform: Transform, index: int) -> np.ndarray:
    """One image of a split as the transform makes it, uint8 [h, w, 3]. Raises: DataError: it cannot be decoded."""
    return transform.pixels(split.open(index))


class _Images(TorchDataset):
    """Pixels by index; an unreadable image comes as a message instead of ending the worker."""

    def __init__(self, load: Callable[[int], Any]) -> None:
        self.load = load

    def __getitem__(self, index: int) -> tuple[int, Any, str]:
        try:
            return index, self.load(index), ""
        except DataError as error:
            return index, None, error.got
        except (MemoryError, OSError, OverflowError, ValueError) as error:  # e.g. a strip too long to be resized
            return index, None, f"{type(error).__name__}: {error}"


def _as_is(items: list[Item]) -> list[Item]:
    return items


def num_workers(asked: int | None, num_images: int, *, in_memory: bool = False) -> int:
    """Decoding processes: as many as asked for; None: by the machine, none for few images or ones in memory."""
    if asked is not None:
        return asked
    if in_memory or num_images < FEW:
        return 0
    return min(16, max(1, machine.usable_cores() // distributed.world_size()))


def num_workers_for(split: Split, asked: int | None) -> int:
    """Decoding processes for the images of a split, see `num_workers`."""
    return num_workers(asked, len(split), in_memory=split.pixels is not None)
