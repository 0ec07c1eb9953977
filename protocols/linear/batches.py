"""What a probe learns from, batch by batch: random crops through the net, or features that are there already.

The order of an epoch and each image's crop come from streams named by seed, epoch and image: they are the same in
every process, whatever the number of decoding workers, and after a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaltk import distributed
from evaltk.data import loading as decoding
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, SettingsError
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


def hold_out(labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Numbers of the images held out, rising: `share` of all to the nearest (at least one), each class in proportion.

    A class of few images may have none held out; the last image of a class never is while others are left.

    Args:
        labels: [N] int64. share: in [0, 1); 0: none.
    """
    count = min(len(labels) - 1, max(1, round(share * len(labels)))) if share > 0 else 0
    order = torch.randperm(len(labels), generator=generator(seed, "probe", "held out")).numpy()
    place = np.empty(len(labels))
    for c in np.unique(labels):
        mine = order[labels[order] == c]
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        place[mine[-1]] = 1.0
    return np.sort(order[np.argsort(place[order], kind="stable")][:count])


def subset(split: Split, index: np.ndarray, name: str) -> Split:
    """The images of a split that `index` names, as a split of its own called `name`."""
    state = hashlib.sha256(f"{split.fingerprint}\0{name}".encode())
    state.update(np.ascontiguousarray(index, dtype=np.int64).tobytes())
    return split.taken(index, name=name, fingerprint=state.hexdigest())


def order(rows: np.ndarray, batch: int, epoch: int, *, seed: int) -> list[np.ndarray]:
    """The batches of an epoch: all of `rows` in a fresh order; the last batch may be smaller."""
    mixed = rows[torch.randperm(len(rows), generator=generator(seed, "probe", "order", epoch)).numpy()]
    return [mixed[i : i + batch] for i in range(0, len(mixed), batch)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """Features that were extracted once, [N, D] float32 each, of the same images; `rows` [M] are learnt from."""

    features: tuple[Features, ...]
    rows: np.ndarray
    batch: int
    seed: int
    device: torch.device | str
    bad: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, epoch: int) -> Iterator[Batch]:
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
        bad: numbers of the images that could not be read so far.
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
    bad: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The image's name."""
        return self.split.image_id(index)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, whole in every process. Raises: DataError: more unreadable images than allowed."""
        batches = order(self.rows, self.batch, epoch, seed=self.seed)
        rank, world = distributed.rank(), distributed.world_size()
        shares = [np.arange(len(b) * rank // world, len(b) * (rank + 1) // world) for b in batches]
        # `batches` asks of the split for images and of the transform for their pixels: these two stand in.
        crops = cast(Split, _Crops(self.split, self.transform.crop, self.seed, epoch))
        mine = [b[share].tolist() for b, share in zip(batches, shares, strict=True)]
        loader = decoding.batches(crops, cast(Transform, _AsIs()), mine, self.how.workers)
        for batch, share, items in zip(batches, shares, loader, strict=True):
            x = self._share(items, len(batch), share)
            good = x[:, -1] > 0
            kept = good.cpu().numpy()
            self._allow(batch[~kept], [message for _, pixels, message in items if pixels is None])
            if kept.any():
                parts = x[good, :-1].split(list(self.widths), dim=1)
                y = torch.from_numpy(self.split.labels[batch[kept]]).to(x.device)
                yield Batch(x=tuple(p.contiguous() for p in parts), y=y, index=batch[kept])

    def _share(self, items: list[decoding.Item], size: int, share: np.ndarray) -> Tensor:
        """Features of all recipes side by side, and whether there are any, [B, sum of D + 1], of all processes."""
        out = torch.zeros(size, sum(self.widths) + 1, device=self.backbone.device)
        there = [(at, pixels) for at, (_, pixels, _) in zip(share.tolist(), items, strict=True) if pixels is not None]
        chunk = self.how.batch_size or features.auto_batch(self.backbone)
        for start in range(0, len(there), chunk):
            part = there[start : start + chunk]
            rows = torch.tensor([at for at, _ in part], device=out.device)
            out[rows, :-1] = torch.cat(self._forward(np.stack([pixels for _, pixels in part])), dim=1)
            out[rows, -1] = 1
        return distributed.all_reduce(out)  # the others' rows are 0 here: a sum in name only

    def _forward(self, pixels: np.ndarray) -> list[Tensor]:
        try:
            x = torch.from_numpy(pixels).to(self.backbone.device, non_blocking=True)
            return self.backbone.features(self.transform.normalise(x), self.recipes)
        except torch.OutOfMemoryError as error:
            raise SettingsError(
                wanted=f"memory on {self.backbone.device} for {len(pixels)} images at a time",
                got="less", where="--batch-size", do=f"--batch-size {max(1, len(pixels) // 2)}",
            ) from error  # fmt: skip

    def _allow(self, index: np.ndarray, messages: Sequence[str]) -> None:
        self.bad.update(index.tolist())
        if len(self.bad) > self.how.skip_bad_images:
            where = f"{self.split.dataset} {self.split.name}"
            raise DataError(
                wanted=f"at most {self.how.skip_bad_images} unreadable images in {where}",
                got=f"{len(self.bad)}" + (f" ({messages[0]})" if messages else ""),
                where=(self.split.root or Path()) / self.split.image_id(min(self.bad)),
                do="restore the file, or allow some to be left out with --skip-bad-images N",
            )


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


class _Crops:
    """A split whose images are random crops: torchvision's own, drawn from a stream of the image's."""

    def __init__(self, split: Split, side: int, seed: int, epoch: int) -> None:
        from torchvision.transforms import v2

        self.split, self.seed, self.epoch, self.pixels = split, seed, epoch, split.pixels
        # dino/eval_linear.py:85-90; bilinear, unlike the evaluation's resize.
        self.crop: Any = v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.split)

    def open(self, index: int) -> Image.Image:
        """The image's crop in this epoch, as RGB."""
        image = self.split.open(index)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global stream
            torch.default_generator.manual_seed(derive(self.seed, "probe", "crop", self.epoch, index))
            found: Image.Image = self.crop(image)
        return found


class _AsIs:
    """A transform that takes what the crop left."""

    def pixels(self, image: Image.Image) -> np.ndarray:
        """uint8 [side, side, 3]."""
        return np.asarray(image)
