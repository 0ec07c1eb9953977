"""What can go wrong between image files and features, checked in one place: unreadable images, NaN, GPU memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from evaltk.data.images import Split
from evaltk.errors import DataError, SettingsError


def check_images(split: Split, allowed: int) -> None:
    """Check a split before any image is decoded. Raises: DataError: no images, or more empty files than allowed."""
    if not len(split):
        where = f"{split.dataset} {split.name}"
        raise DataError(wanted="at least one image", got="none", where=where, do="add images")
    check_unreadable(split, split.empty, allowed, "an empty file")


def check_unreadable(split: Split, unreadable: tuple[str, ...], allowed: int, message: str = "") -> None:
    """Check that no more than `allowed` images could not be read.

    Args:
        unreadable: their names. message: what was wrong with one of them.

    Raises: DataError: more (the first is named).
    """
    if len(unreadable) > allowed:
        raise DataError(
            wanted=f"at most {allowed} unreadable images in {split.dataset} {split.name}",
            got=f"{len(unreadable)}" + (f" ({message})" if message else ""),
            where=(split.root or Path()) / unreadable[0],
            do="replace the file if it is damaged, or tolerate some with --skip-bad-images N; finished work is kept",
        )


def check_finite(x: torch.Tensor, where: Callable[[int], str]) -> None:
    """Check that features x [B, D] are finite; `where`: names the image of a row. Raises: DataError."""
    bad = ~torch.isfinite(x).all(dim=1)
    if bool(bad.any()):
        raise DataError(
            wanted="finite features",
            got=f"NaN or infinity in {int(bad.sum())} of {len(x)}",
            where=where(int(bad.nonzero()[0])),
            do="try --precision fp32; if that does not help, the checkpoint is damaged or diverged",
        )


@contextmanager
def enough_memory(device: torch.device, num_images: int) -> Iterator[None]:
    """Around a forward pass of `num_images`. Raises: SettingsError: out of GPU memory; it suggests half the batch."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            wanted=f"memory on {device} for {num_images} images at a time",
            got="less",
            where="--batch-size",
            do=f"--batch-size {max(1, num_images // 2)}",
        ) from error
