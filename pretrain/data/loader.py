"""Images to learn from, in the order of a sampler whose position is a number: step and process tell what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaltk import machine
from evaltk.errors import DataError, SettingsError
from evaltk.seeding import generator
from pretrain import signals
from pretrain.data import masks, views
from pretrain.data.sources import Source
from pretrain.nets import parse
from pretrain.recipe import Recipe, Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which images make which batch: a fresh permutation an epoch, the incomplete last batch left out.

    Attributes:
        count: images. batch: images a step over all processes. rank, world: this process's share of each batch.
    """

    count: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return self.count // self.batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """(epoch, image) pairs of this process's part of each step from `start` on."""
        order = torch.randperm(self.count, generator=generator(self.seed, "order", epoch)).tolist()
        share = self.batch // self.world
        for step in range(start, self.steps):
            first = step * self.batch + self.rank * share
            yield [(epoch, i) for i in order[first : first + share]]


def check_order(count: int, batch: int, world: int, accumulate: int) -> None:
    """Raises: SettingsError: a batch that the processes and micro-batches do not divide, or too few images."""
    if batch % (world * accumulate):
        raise SettingsError(
            wanted=f"a batch that {world} processes x {accumulate} micro-batches divide", got=str(batch),
            where="optim.batch", do=f"e.g. --set optim.batch={-(-batch // (world * accumulate)) * world * accumulate}",
        )  # fmt: skip
    if count < batch:
        raise SettingsError(
            wanted=f"at least {batch} images, one batch", got=f"{count}", where="data.source",
            do=f"--set optim.batch={max(1, count)} or more images",
        )  # fmt: skip


class ViewDataset(TorchDataset):
    """Item (epoch, index): what a worker makes of an image, see `collate`. A bad image is replaced by the next."""

    def __init__(self, source: Source, recipe: Recipe) -> None:
        self.source, self.views, self.seed = source, recipe.views, recipe.run.seed
        self.masks = None
        if recipe.method.name == "ibot":
            self.masks = masks.Settings(ratios=recipe.method.mask_ratios, half_widths=recipe.method.mask_half_widths)
            arch = parse(recipe.net.arch)
            side = recipe.views.global_size // (arch.patch_size if arch else 16)
            self.grid = (side, side)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        bad: list[str] = []
        for other in range(len(self.source)):
            at = (index + other) % len(self.source)
            try:
                image = self.source.open(at)
                break
            except DataError as error:
                bad.append(error.where)
        else:
            raise DataError(wanted="a readable image", got="none", where="data.source", do="restore the images")
        params = views.draw(self.views, self.seed, epoch, index, *image.size)
        item: dict[str, Any] = {"index": at, "id": self.source.image_id(at), "bad": bad}
        if self.masks is not None:
            stream = generator(self.seed, "masks", epoch, index)
            item["mask"] = masks.sample_masks(2, self.grid, generator=stream, settings=self.masks)
        if self.views.where == "workers":
            return item | {"views": views.render(image, params, self.views)}
        return item | {"image": np.asarray(image), "params": params}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: `index`, `ids`, `bad`, and either `views` (uint8 [B, 3, s, s] each) or `canvas` with `params`."""
    batch: dict[str, Any] = {
        "index": torch.tensor([i["index"] for i in items]),
        "ids": [i["id"] for i in items],
        "bad": [name for i in items for name in i["bad"]],
    }
    if "mask" in items[0]:  # [2, B, h, w]
        batch["mask"] = torch.stack([i["mask"] for i in items], dim=1)
    if "views" in items[0]:
        stacked = [np.stack([i["views"][v] for i in items]) for v in range(len(items[0]["views"]))]
        return batch | {"views": [torch.from_numpy(s).permute(0, 3, 1, 2) for s in stacked]}
    height, width = (max(i["image"].shape[side] for i in items) for side in (0, 1))
    canvas = torch.zeros(len(items), 3, height, width, dtype=torch.uint8)
    for row, item in zip(canvas, items, strict=True):
        pixels = torch.from_numpy(np.array(item["image"])).permute(2, 0, 1)
        row[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return batch | {"canvas": canvas, "params": views.stack([i["params"] for i in items])}


def loader(source: Source, recipe: Recipe, batches: list[list[tuple[int, int]]], *, world: int) -> DataLoader:
    """Batches of views in the given order, decoded by worker processes."""
    workers = recipe.run.workers
    if workers < 0:
        workers = min(16, max(1, machine.usable_cores() // world))
    return DataLoader(
        ViewDataset(source, recipe),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=signals.ignore,
        generator=torch.Generator(),  # workers' seeds must not be drawn from the stream that drop path draws from
        pin_memory=torch.cuda.is_available(),
    )


def to_views(batch: dict[str, Any], settings: Views, device: torch.device, mean: Any, std: Any) -> list[torch.Tensor]:
    """The batch's views on the device, normalised: float32 [B, 3, size, size] each, globals first."""
    from pretrain.data import views_device

    if "views" in batch:
        made = [v.to(device, non_blocking=True).float().div_(255) for v in batch["views"]]
    else:
        made = views_device.render(batch["canvas"].to(device, non_blocking=True), batch["params"], settings)
    m, s = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))
    return [v.sub_(m).div_(s) for v in made]
