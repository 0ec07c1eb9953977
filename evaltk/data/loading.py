"""Images decoded and cropped by worker processes, in the batches asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaltk import distributed, machine, processes
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, SettingsError

Item = tuple[int, np.ndarray | None, str]  # index, the pixels or None, what was wrong
Load = Callable[[int], np.ndarray]  # the pixels of the image with this index; picklable, for worker processes
FEW = 1024  # images below which starting processes takes longer than they save


def batches(load: Load, indices: list[list[int]], workers: int) -> Iterator[list[Item]]:
    """The images that `indices` name, batch by batch and in order; an unreadable one comes as a message.

    Args:
        load: makes the pixels of an image, mostly `functools.partial(pixels, split, transform)`.
        workers: decoding processes; 0: none beside this one.

    Raises: SettingsError: a decoding process was killed, mostly for lack of memory.
    """
    loader = DataLoader(
        _Images(load),
        batch_sampler=indices,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=processes.start_worker,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise SettingsError(
            wanted="decoding processes that stay alive",
            got=str(error).splitlines()[0],
            where="--workers",
            do="use fewer (--workers 0: none beside this one); finished shards are kept",
        ) from error


def pixels(split: Split, transform: Transform, index: int) -> np.ndarray:
    """One image of a split as the transform makes it, uint8 [h, w, 3]. Raises: DataError: it cannot be decoded."""
    return transform.pixels(split.open(index))


class _Images(TorchDataset):
    """Pixels by index; an unreadable image comes as a message instead of ending the worker."""

    def __init__(self, load: Load) -> None:
        self.load = load

    def __getitem__(self, index: int) -> Item:
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
