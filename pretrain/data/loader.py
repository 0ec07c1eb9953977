"""Training images in the order of a sampler whose position is a number: step and process determine what comes next."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaltk import machine
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import DataError, SettingsError
from evaltk.seeding import generator
from evaltk.sending import sent
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD
from pretrain import signals
from pretrain.data import jpegs, masks, sources, views, views_device, views_plan
from pretrain.data.jpegs import Encoded, Jpeg
from pretrain.data.masks import Masked
from pretrain.data.sources import Bad, Source
from pretrain.data.views import Params, Views
from pretrain.data.views_plan import Plan

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A recipe's [data]. Labels, if any, are used only for the k-NN accuracy in the log.

    Attributes:
        source: training images, NAME or NAME=PATH as for ``evaltk run --data``, ``folder=DIR`` or ``zip=FILE``.
        skip_bad_images: how many unreadable images may be replaced by another before the run stops.
        mean, std: pixel statistics the views are normalised with.
        path_column, label_column, split_column, split, show, max_pixels: of your own images, as for ``evaltk run``.
        split_seed: of the draw of `split`, ``--seed`` of ``evaltk run``; None: 0, as there.
    """

    source: str = ""
    skip_bad_images: int = 0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    split: float | None = None
    split_seed: int | None = None
    show: Literal["as-shown", "as-reference"] | None = None
    max_pixels: int | None = None

    @property
    def options(self) -> DataOptions:
        """What is said of images of the user's own. The draw does not depend on the run's seed."""
        return DataOptions(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(DataFlags)}, seed=self.split_seed or 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which images form which batch: a fresh permutation per epoch, the incomplete last batch left out.

    Attributes:
        count: images. batch: images per step over all processes. rank, world: this process's share of each batch.
        reorders: steps of the run from which on what is left of the order is drawn anew, one after the other.
    """

    count: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1
    reorders: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.count // self.batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """Per step from `start` on, the (epoch, image) pairs of this process's share."""
        order = self._permutation(epoch).tolist()
        share = self.batch // self.world
        for step in range(start, self.steps):
            first = step * self.batch + self.rank * share
            yield [(epoch, i) for i in order[first : first + share]]

    def _permutation(self, epoch: int) -> Tensor:
        """Images [count] int64 in the order of an epoch."""
        order = torch.randperm(self.count, generator=generator(self.seed, "order", epoch))
        for number, step in enumerate(self.reorders, 1):
            begun = order[: max(0, step - epoch * self.steps) * self.batch]
            left = order[len(begun) :]
            again = torch.randperm(len(left), generator=generator(self.seed, "order", epoch, "again", number))
            order = torch.cat([begun, left[again]])
        return order


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
        index, image_id: of the image that was read. bad: the unreadable ones before it, which it replaces.
        mask: bool [num_global, h, w], or None. views: uint8 [s, s, 3] each, rendered by Pillow; or else
        image: uint8 [H, W, 3], or the file that the device decodes, with the `params` of its views, rendered there.
    """

    index: int
    image_id: str
    bad: tuple[Bad, ...]
    mask: Tensor | None = None
    views: list[np.ndarray] | None = None
    image: np.ndarray | Jpeg | None = None
    params: Params | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostBatch:
    """A batch of `Sample`s on the host.

    Attributes:
        index: [B]. ids: of the images. bad: unreadable ones. mask: bool [num_global, B, h, w], with the patches it
            masks, or None. views: uint8 [B, 3, s, s] each; or else canvas: uint8 [B, 3, H, W], each image in its upper
            left corner but those still `encoded`, with the `plan` of its views; None: all of them are.
    """

    index: Tensor
    ids: tuple[str, ...]
    bad: tuple[Bad, ...]
    mask: Tensor | None = None
    masked: Masked | None = None
    views: list[Tensor] | None = None
    canvas: Tensor | None = None
    encoded: Encoded | None = None
    plan: Plan | None = None

    def pin_memory(self) -> HostBatch:
        """The same in page-locked memory; called by DataLoader."""
        return dataclasses.replace(
            self,
            mask=None if self.mask is None else self.mask.pin_memory(),
            masked=None if self.masked is None else self.masked.pin_memory(),
            views=None if self.views is None else [v.pin_memory() for v in self.views],
            canvas=None if self.canvas is None else self.canvas.pin_memory(),
            plan=None if self.plan is None else self.plan.pin_memory(),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """A micro-batch as a method's loss takes it, on the device.

    Attributes:
        views: normalised float32 [B, 3, s, s] each, `num_global` globals first. mask: bool [num_global * B, h, w], True
            where the student sees no patch; masked: those patches. Both None for methods without masks.
    """

    views: list[Tensor]
    num_global: int
    mask: Tensor | None = None
    masked: Masked | None = None


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

    def _open(self, index: int) -> tuple[int, Image.Image | Jpeg, tuple[Bad, ...]]:
        """(index of the image read, the image or its file, unreadable ones before it)."""
        bad: list[Bad] = []
        for other in range(len(self.source)):
            at = (index + other) % len(self.source)
            try:
                return at, self._jpeg(at) or self.source.open(at), tuple(bad)
            except DataError as error:
                bad.append((self.source.image_id(at), f"{error.where}: {error.got}"))
        raise DataError(wanted="a readable image", got="none", where="data.source", do="restore the images")

    def _jpeg(self, at: int) -> Jpeg | None:
        """The file of an image that the device decodes."""
        found = sources.encoded(self.source, at) if self.views.decode == "device" else None
        return None if found is None else jpegs.plain(*found)

    def _sample(
        self, key: tuple[int, int], at: int, image: Image.Image | Jpeg, bad: tuple[Bad, ...], *, params: Params
    ) -> Sample:
        mask = None
        if self.masking is not None:
            stream = generator(self.seed, "masks", *key)
            mask = masks.sample_masks(self.views.num_global, self.grid, generator=stream, settings=self.masking)
        sample = Sample(index=at, image_id=self.source.image_id(at), bad=bad, mask=mask)
        if isinstance(image, Jpeg):
            return dataclasses.replace(sample, image=image, params=params)
        if self.views.where == "workers":
            return dataclasses.replace(sample, views=views.render(image, params, self.views))
        return dataclasses.replace(sample, image=np.asarray(image), params=params)


def collate(samples: Sequence[Sample], settings: Views) -> HostBatch:
    """Stack samples, and plan how their views are rendered where the device does it."""
    mask = _stack_masks([s.mask for s in samples if s.mask is not None])
    batch = HostBatch(
        index=torch.tensor([s.index for s in samples]),
        ids=tuple(s.image_id for s in samples),
        bad=tuple(one for s in samples for one in s.bad),
        mask=mask,
        masked=None if mask is None else masks.masked(mask.flatten(0, 1)),
    )
    rendered = [s.views for s in samples if s.views is not None]
    if rendered:
        stacked = [np.stack(same_view) for same_view in zip(*rendered, strict=True)]
        return dataclasses.replace(batch, views=[torch.from_numpy(s).permute(0, 3, 1, 2) for s in stacked])
    return dataclasses.replace(batch, **_canvas(samples, settings))


def _canvas(samples: Sequence[Sample], settings: Views) -> dict[str, Any]:
    """The images of a batch as `HostBatch` holds them where the device makes the views."""
    images = [s.image for s in samples if s.image is not None]
    sides = [image.size[::-1] if isinstance(image, Jpeg) else image.shape[:2] for image in images]
    height, width = (max(side[n] for side in sides) for n in (0, 1))
    files = [(n, samples[n].image_id, image) for n, image in enumerate(images) if isinstance(image, Jpeg)]
    shape = (len(images), 3, height, width)
    canvas = torch.zeros(shape, dtype=torch.uint8) if len(files) < len(images) else None
    for row, image in enumerate(images):
        if canvas is not None and not isinstance(image, Jpeg):
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            canvas[row, :, : pixels.shape[1], : pixels.shape[2]] = pixels
    params = views.stack([s.params for s in samples if s.params is not None])
    plan = views_plan.plan(params, settings, height, width)
    return {"canvas": canvas, "encoded": jpegs.together(files, shape), "plan": plan}


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
        collate_fn=functools.partial(collate, settings=dataset.views),
        worker_init_fn=signals.ignore,
        generator=torch.Generator(),  # workers' seeds must not be drawn from the stream that drop path draws from
        pin_memory=torch.cuda.is_available(),
    )


def to_device(batch: HostBatch, settings: Views, device: torch.device, *, mean: Triple, std: Triple) -> Batch:
    """The batch on the device, its views rendered if they are not yet, and normalised."""
    if batch.views is not None:
        m, s = sent([mean, std], device).view(2, 1, 3, 1, 1)
        made = [v.to(device, non_blocking=True).float().div_(255).sub_(m).div_(s) for v in batch.views]
    else:
        assert batch.plan is not None
        canvas = None if batch.canvas is None else batch.canvas.to(device, non_blocking=True)
        if batch.encoded is not None:
            canvas = jpegs.on_canvas(canvas, batch.encoded, device)
        assert canvas is not None
        made = views_device.render_planned(canvas, batch.plan.to(device), mean=mean, std=std, views=settings)
    return Batch(
        views=made,
        num_global=settings.num_global,
        mask=None if batch.mask is None else batch.mask.flatten(0, 1).to(device, non_blocking=True),
        masked=None if batch.masked is None else batch.masked.to(device),
    )
