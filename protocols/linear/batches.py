"""What a probe is trained on, batch by batch: random crops through the net, or features that are there already.

The order of an epoch and each image's crop come from streams named by seed, epoch and image: they are the same in
every process, whatever the number of decoding workers, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaltk import distributed
from evaltk.data import loading
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.features import checks
from evaltk.features import extraction as features
from evaltk.features.extraction import Extraction
from evaltk.models.backbone import Backbone
from evaltk.seeding import derive, generator
from evaltk.types import Features, PixelView, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Features [B, D] of each recipe, class ids [B] int64, and the images' numbers in their split [B]."""

    x: tuple[Tensor, ...]
    y: Tensor
    index: np.ndarray


def order(rows: np.ndarray, batch: int, epoch: int, *, seed: int) -> list[np.ndarray]:
    """The batches of an epoch: all of `rows` in a fresh order; the last batch may be smaller."""
    mixed = rows[torch.randperm(len(rows), generator=generator(seed, "probe", "order", epoch)).numpy()]
    return [mixed[i : i + batch] for i in range(0, len(mixed), batch)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """Features that were extracted once, [N, D] float32 each, of the same images; `rows` [M] are trained on.

    `skipped`: numbers of the images that could not be read then.
    """

    features: tuple[Features, ...]
    rows: np.ndarray
    batch: int
    seed: int
    device: torch.device | str
    skipped: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, epoch: int, unreadable: set[int]) -> Iterator[Batch]:
        """The batches of an epoch; none in processes without heads, for there is no work to share."""
        if not distributed.is_main():
            return
        for index in order(self.rows, self.batch, epoch, seed=self.seed):
            x = tuple(torch.from_numpy(np.array(f.x[index])).to(self.device) for f in self.features)
            yield Batch(x=x, y=torch.from_numpy(self.features[0].y[index]).to(self.device), index=index)

    def name(self, index: int) -> str:
        """The image's name."""
        return self.features[0].ids[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented:
    """Random crops of the images `rows` [M] of a split, through the net; processes share each batch.

    Attributes:
        transform: of the evaluation: the side of its crop and its pixel statistics are taken.
        widths: D of each recipe's feature.
        skipped: numbers of images known to be unreadable.
    """

    backbone: Backbone
    split: Split
    rows: np.ndarray
    transform: Transform
    recipes: tuple[Recipe, ...]
    widths: tuple[int, ...]
    batch: int
    seed: int
    how: Extraction
    skipped: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The image's name."""
        return self.split.image_id(index)

    def epoch(self, epoch: int, unreadable: set[int]) -> Iterator[Batch]:
        """The batches of an epoch, whole in every process.

        Args:
            unreadable: numbers of the images that could not be read so far; those of this epoch are added.

        Raises: DataError: more unreadable images than allowed.
        """
        batches = order(self.rows, self.batch, epoch, seed=self.seed)
        rank, world = distributed.rank(), distributed.world_size()
        shares = [np.arange(len(b) * rank // world, len(b) * (rank + 1) // world) for b in batches]
        mine = [b[share].tolist() for b, share in zip(batches, shares, strict=True)]
        load = partial(random_crop, self.split, crops(self.transform.crop), self.seed, epoch)
        loader = loading.batches(load, mine, loading.num_workers_for(self.split, self.how.workers))
        for batch, share, items in zip(batches, shares, loader, strict=True):
            x = self._share(items, len(batch), share)
            good = x[:, -1] > 0
            kept = good.cpu().numpy()
            unreadable.update(batch[~kept].tolist())
            self._check_unreadable(unreadable, items)
            if kept.any():
                parts = x[good, :-1].split(list(self.widths), dim=1)
                y = torch.from_numpy(self.split.labels[batch[kept]]).to(x.device)
                yield Batch(x=tuple(p.contiguous() for p in parts), y=y, index=batch[kept])

    def _share(self, items: list[loading.Item], size: int, share: np.ndarray) -> Tensor:
        """Features of all recipes side by side, and whether there are any, [B, sum of D + 1], of all processes."""
        out = torch.zeros(size, sum(self.widths) + 1, device=self.backbone.device)
        readable = [(at, image) for at, (_, image, _) in zip(share.tolist(), items, strict=True) if image is not None]
        chunk = self.how.batch_size or features.auto_batch(self.backbone)
        for start in range(0, len(readable), chunk):
            part = readable[start : start + chunk]
            rows = torch.tensor([at for at, _ in part], device=out.device)
            pixels = np.stack([image for _, image in part])
            out[rows, :-1] = torch.cat(features.forward(self.backbone, self.transform, pixels, self.recipes), dim=1)
            out[rows, -1] = 1
        return distributed.all_reduce(out)  # the others' rows are 0 here: a sum in name only

    def _check_unreadable(self, unreadable: set[int], items: list[loading.Item]) -> None:
        names = tuple(self.split.image_id(number) for number in sorted(unreadable))
        message = next((message for _, pixels, message in items if pixels is None), "")
        checks.check_unreadable(self.split, names, self.how.skip_bad_images, message)


def crop_text(transform: Transform) -> str:
    """The training view in words."""
    mean, std = (" ".join(f"{v:g}" for v in values) for values in (transform.mean, transform.std))
    return (
        f"RandomResizedCrop {transform.crop} bilinear, area 0.08 to 1, ratio 3/4 to 4/3 (torchvision v2 on Pillow), "
        f"flip 0.5, RGB/255, mean {mean}, std {std}"
    )


def recorded(transform: Transform) -> PixelView:
    """The training view as fields, for results."""
    return PixelView(
        text=crop_text(transform),
        crop=transform.crop,
        interpolation="bilinear",
        mean=transform.mean,
        std=transform.std,
        augmented=True,
    )


def random_crop(split: Split, crop: Any, seed: int, epoch: int, index: int) -> np.ndarray:
    """The image's crop in an epoch, uint8 [side, side, 3]: torchvision's own, drawn from a stream of the image's."""
    image = split.open(index)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global stream
        torch.default_generator.manual_seed(derive(seed, "probe", "crop", epoch, index))
        return np.asarray(crop(image))


def crops(side: int) -> Any:
    """torchvision's training crops, PIL image -> PIL image. Source: dino/eval_linear.py:85-90; bilinear, unlike the
    evaluation's resize."""
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip()])
