"""Images of a split, decoded and cropped by other processes, in the batches asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaltk import distributed, machine
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, SettingsError

Item = tuple[int, np.ndarray | None, str]  # index, pixels uint8 [crop, crop, 3] or None, what was wrong
FEW = 1024  # images below which starting processes takes longer than they save


def batches(
    split: Split, transform: Transform, indices: list[list[int]], workers: int | None = None
) -> Iterator[list[Item]]:
    """The images `indices` name, batch by batch and in order; an unreadable one comes as a message.

    Args:
        workers: decoding processes; None: by the machine.

    Raises: SettingsError: a decoding process was killed, mostly for want of memory.
    """
    count = workers_for(split) if workers is None else workers
    loader = DataLoader(_Images(split, transform), batch_sampler=indices, num_workers=count, collate_fn=_as_is)
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


class _Images(TorchDataset):
    """Decoded and cropped images; an unreadable one comes as a message instead of ending the worker."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        try:
            return index, self.transform.pixels(self.split.open(index)), ""
        except DataError as error:
            return index, None, error.got
        except (MemoryError, OSError, OverflowError, ValueError) as error:  # e.g. a strip too long to be resized
            return index, None, f"{type(error).__name__}: {error}"


def _as_is(items: list[Item]) -> list[Item]:
    return items


def workers_for(split: Split) -> int:
    """Decoding processes that a split gets where the user names no number: none for few images or ones in memory."""
    if split.pixels is not None or len(split) < FEW:
        return 0
    return min(16, max(1, machine.usable_cores() // distributed.world_size()))
