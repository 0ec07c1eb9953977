"""Training images in the order of a sampler whose position is a number: step and process determine what comes next."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaltk import machine
from evaltk.errors import DataError, SettingsError
from evaltk.seeding import generator
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD
from pretrain import signals
from pretrain.data import masks, views, views_device
from pretrain.data.sources import Source
from pretrain.data.views import Params, Views

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A recipe's [data]. Labels, if any, are used only for the k-NN accuracy in the log.

    Attributes:
        source: training images, NAME or NAME=PATH as for ``evaltk run --data``, ``folder=DIR`` or ``zip=FILE``.
        skip_bad_images: how many unreadable images may be replaced by another before the run stops.
        mean, std: pixel statistics the views are normalised with.
    """

    source: str = ""
    skip_bad_images: int = 0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which images form which batch: a fresh permutation per epoch, the incomplete last batch left out.

    Attributes:
        count: images. batch: images per step over all processes. rank, world: this process's share of each batch.
    """

    count: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.count // self.batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """Per step from `start` on, the (epoch, image) pairs of this process's share."""
        order = torch.randperm(self.count, generator=generator(self.seed, "order", epoch)).tolist()
        share = self.batch // self.world
        for step in range(start, self.steps):
            first = step * self.batch + self.rank * share
            yield [(epoch, i) for i in order[first : first + share]]


def check_order(count: int, batch: int, world: int, accumulate: int) -> None:
    """Raises: SettingsError: a batch not divisible by processes x micro-batches, or fewer images than one batch."""
    if batch % (world * accumulate):
        raise SettingsError(
            wanted=f"a batch divisible by {world} processes x {accumulate} micro-batches", got=str(batch),
            where="optim.batch", do=f"e.g. --set optim.batch={-(-batch // (world * accumulate)) * world * accumulate}",
        )  # fmt: skip
    if count < batch:
        raise SettingsError(
            wanted=f"at least {batch} images, one batch", got=f"{count}", where="data.source",
            do=f"--set optim.batch={max(1, count)}, or add images",
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One image as a worker returns it.

    Attributes:
        index, image_id: of the image that was read. bad: ids of unreadable ones before it, which it replaces.
        mask: bool [num_global, h, w], or None. views: uint8 [s, s, 3] each, rendered by Pillow; or else
        image: uint8 [H, W, 3] with the `params` of its views, rendered on the device.
    """

    index: int
    image_id: str
    bad: tuple[str, ...]
    mask: Tensor | None = None
    views: list[np.ndarray] | None = None
    image: np.ndarray | None = None
    params: Params | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostBatch:
    """A batch of `Sample`s on the host.

    Attributes:
        index: [B]. ids, bad: image ids. mask: bool [num_global, B, h, w], or None. views: uint8 [B, 3, s, s] each; or
        else canvas: uint8 [B, 3, H, W], each image in its upper left corner, with the `params` of its views.
    """

    index: Tensor
    ids: tuple[str, ...]
    bad: tuple[str, ...]
    mask: Tensor | None = None
    views: list[Tensor] | None = None
    canvas: Tensor | None = None
    params: Params | None = None

    def pin_memory(self) -> HostBatch:
        """The same in page-locked memory; called by DataLoader."""
        return dataclasses.replace(
            self,
            mask=None if self.mask is None else self.mask.pin_memory(),
            views=None if self.views is None else [v.pin_memory() for v in self.views],
            canvas=None if self.canvas is None else self.canvas.pin_memory(),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """A micro-batch as a method's loss takes it, on the device.

    Attributes:
        views: normalised float32 [B, 3, s, s] each, `num_global` globals first. mask: bool [num_global * B, h, w], True
            where the student sees no patch; None for methods without masks.
    """

    views: list[Tensor]
    num_global: int
    mask: Tensor | None = None


class ViewDataset(TorchDataset):
    """Item (epoch, index): a `Sample`. An unreadable image is replaced by the next readable one.

    Args:
        masking: how global views are masked; None for no masks. patch_size: in pixels, of the masks' grid.
    """

    def __init__(
        self, source: Source, settings: Views, *, seed: int, masking: masks.Settings | None, patch_size: int
    ) -> None:
        self.source, self.views, self.seed, self.masking = source, settings, seed, masking
        side = settings.global_size // patch_size
        self.grid = (side, side)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Sample]:
        """The samples of a batch, which DataLoader asks for at once: their parameters are drawn together."""
        opened = [self._open(index) for _, index in keys]
        drawn = views.draw_all(self.views, self.seed, keys, [image.size for _, image, _ in opened])
        return [
            self._sample(key, *found, params=views.row(drawn, n))
            for n, (key, found) in enumerate(zip(keys, opened, strict=True))
        ]

    def _open(self, index: int) -> tuple[int, Image.Image, tuple[str, ...]]:
        """(index of the image read, the image, ids of unreadable ones before it)."""
        bad: list[str] = []
        for other in range(len(self.source)):
            at = (index + other) % len(self.source)
            try:
                return at, self.source.open(at), tuple(bad)
            except DataError as error:
                bad.append(error.where)
        raise DataError(wanted="a readable image", got="none", where="data.source", do="restore the images")

    def _sample(
        self, key: tuple[int, int], at: int, image: Image.Image, bad: tuple[str, ...], *, params: Params
    ) -> Sample:
        mask = None
        if self.masking is not None:
            stream = generator(self.seed, "masks", *key)
            mask = masks.sample_masks(self.views.num_global, self.grid, generator=stream, settings=self.masking)
        sample = Sample(index=at, image_id=self.source.image_id(at), bad=bad, mask=mask)
        if self.views.where == "workers":
            return dataclasses.replace(sample, views=views.render(image, params, self.views))
        return dataclasses.replace(sample, image=np.asarray(image), params=params)


def collate(samples: Sequence[Sample]) -> HostBatch:
    """Stack samples."""
    batch = HostBatch(
        index=torch.tensor([s.index for s in samples]),
        ids=tuple(s.image_id for s in samples),
        bad=tuple(name for s in samples for name in s.bad),
        mask=_stack_masks([s.mask for s in samples if s.mask is not None]),
    )
    rendered = [s.views for s in samples if s.views is not None]
    if rendered:
        stacked = [np.stack(same_view) for same_view in zip(*rendered, strict=True)]
        return dataclasses.replace(batch, views=[torch.from_numpy(s).permute(0, 3, 1, 2) for s in stacked])
    images = [s.image for s in samples if s.image is not None]
    height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    canvas = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for row, image in zip(canvas, images, strict=True):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        row[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    params = views.stack([s.params for s in samples if s.params is not None])
    return dataclasses.replace(batch, canvas=canvas, params=params)


def _stack_masks(per_image: list[Tensor]) -> Tensor | None:
    return torch.stack(per_image, dim=1) if per_image else None  # [num_global, B, h, w]


def loader(dataset: ViewDataset, batches: list[list[tuple[int, int]]], *, workers: int, world: int) -> DataLoader:
    """`HostBatch`es in the given order, decoded by worker processes (-1: one per core, shared by `world` processes)."""
    if workers < 0:
        workers = min(16, max(1, machine.usable_cores() // world))
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=signals.ignore,
        generator=torch.Generator(),  # workers' seeds must not be drawn from the stream that drop path draws from
        pin_memory=torch.cuda.is_available(),
    )


def to_device(batch: HostBatch, settings: Views, device: torch.device, *, mean: Triple, std: Triple) -> Batch:
    """The batch on the device, its views rendered if they are not yet, and normalised."""
    if batch.views is not None:
        rendered = [v.to(device, non_blocking=True).float().div_(255) for v in batch.views]
    else:
        assert batch.canvas is not None
        assert batch.params is not None
        rendered = views_device.render(batch.canvas.to(device, non_blocking=True), batch.params, settings)
    m, s = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))
    return Batch(
        views=[v.sub_(m).div_(s) for v in rendered],
        num_global=settings.num_global,
        mask=None if batch.mask is None else batch.mask.flatten(0, 1).to(device),
    )
