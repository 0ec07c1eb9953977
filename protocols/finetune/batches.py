"""What a fine-tuning learns from: views of the images of each group, drawn by timm from the image's own stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from evaltk import distributed
from evaltk.data import loading as decoding
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError
from evaltk.features.extraction import Extraction
from evaltk.seeding import derive, seeded
from evaltk.types import PixelView
from protocols.finetune.recipe import Tuning, groups, order

# Nets for images of up to 32 px see them whole, moved by up to an eighth: run_class_finetuning.py, build_transform, has
# 4 px for its 32.
WHOLE, MARGIN = 32, 8
JITTER = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The images `rows` of a split as they are learnt from.

    `transform`: of the evaluation, whose size and pixel statistics are taken.
    `bad`: numbers of the images that could not be read so far; another of the group takes such an image's place.
    """

    split: Split
    rows: np.ndarray
    transform: Transform
    tuning: Tuning
    seed: int
    how: Extraction
    bad: set[int] = field(default_factory=set)

    def epoch(self, epoch: int) -> Iterator[list[tuple[int, Tensor, Tensor]]]:
        """Steps of an epoch: this process's groups, each (number, x [G, 3, S, S] float32 normalised, y [G] int64).

        Raises: DataError: more unreadable images than allowed, or no readable one in a group.
        """
        rank, world = distributed.rank(), distributed.world_size()
        numbers = self.rows[order(len(self.rows), self.tuning.repeats, epoch, seed=self.seed)]
        laid = groups(np.arange(len(numbers)), self.tuning)
        mine = [(g, laid[s, g]) for s in range(len(laid)) for g in range(rank, laid.shape[1], world)]
        drawn = cast(Split, _Drawn(self, numbers, epoch))  # stands in for a split of which pixels are asked
        loader = decoding.batches(drawn, cast(Transform, _AsIs()), [at.tolist() for _, at in mine], self.how.workers)
        found = iter(zip(mine, loader, strict=True))
        for _ in range(len(laid)):
            yield [self._group(*next(found), numbers) for _ in range(rank, laid.shape[1], world)]

    def _group(
        self, mine: tuple[int, np.ndarray], items: list[decoding.Item], numbers: np.ndarray
    ) -> tuple[int, Tensor, Tensor]:
        number, at = mine
        there = [i for i, (_, pixels, _) in enumerate(items) if pixels is not None]
        self.bad.update(int(numbers[at[i]]) for i in range(len(items)) if i not in there)
        if len(self.bad) > self.how.skip_bad_images or not there:
            self._refuse(next(message for _, pixels, message in items if pixels is None))
        taken = [i if items[i][1] is not None else there[i % len(there)] for i in range(len(items))]
        x = torch.from_numpy(np.stack([cast(np.ndarray, items[i][1]) for i in taken]))
        return number, x, torch.from_numpy(self.split.labels[numbers[at[taken]]]).long()

    def _refuse(self, message: str) -> None:
        name = self.split.image_id(min(self.bad))
        raise DataError(
            wanted=f"at most {self.how.skip_bad_images} unreadable images in {self.split.dataset} {self.split.name}",
            got=f"{len(self.bad)} ({message})",
            where=(self.split.root or Path()) / name,
            do="restore the file, or allow some to be left out with --skip-bad-images N",
        )


def augmentation(side: int, tuning: Tuning, transform: Transform) -> Any:
    """timm's training transform: PIL image -> float32 tensor [3, side, side], normalised and partly erased.

    Source: run_class_finetuning.py and eval_cls.py, build_transform: timm's create_transform with its own defaults;
    nets for images of at most 32 px take a crop of the padded image instead of one at random scales.
    """
    from timm.data import auto_augment, create_transform
    from torchvision.transforms import v2

    made = create_transform(
        input_size=side,
        is_training=True,
        color_jitter=JITTER,  # not used where there is RandAugment, as in the original
        auto_augment=None if tuning.augment == "none" else tuning.augment,
        interpolation="bicubic",
        re_prob=tuning.erase,
        re_mode="pixel",
        re_count=1,
        mean=transform.mean,
        std=transform.std,
    )
    for op in (op for t in made.transforms for op in getattr(t, "ops", ())):
        if op.aug_fn is auto_augment.posterize:
            op.aug_fn = _posterized
    if side <= WHOLE:
        made.transforms[0] = v2.Compose([v2.Resize((side, side)), v2.RandomCrop(side, padding=side // MARGIN)])
    return made


def _posterized(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's posterize; none of the bits kept is black, as in the Pillow of the original, which new ones refuse."""
    if bits < 1:
        return Image.new(image.mode, image.size)
    return image if bits >= 8 else ImageOps.posterize(image, bits)


def text(transform: Transform, tuning: Tuning) -> str:
    """The training view in words."""
    crop = f"RandomResizedCrop {transform.crop} bicubic, area 0.08 to 1, ratio 3/4 to 4/3"
    if transform.crop <= WHOLE:
        crop = f"resize {transform.crop}, random crop {transform.crop} padded by {transform.crop // MARGIN}"
    mean, std = (" ".join(f"{v:g}" for v in values) for values in (transform.mean, transform.std))
    augment = f"colour jitter {JITTER:g}" if tuning.augment == "none" else f"{tuning.augment} (timm)"
    return f"{crop}, flip 0.5, {augment}, RGB/255, mean {mean}, std {std}, erasing {tuning.erase:g}"


def recorded(transform: Transform, tuning: Tuning) -> PixelView:
    """The training view as fields, for results."""
    whole = transform.crop <= WHOLE
    return PixelView(
        text=text(transform, tuning),
        resize=transform.crop if whole else None,
        crop=transform.crop,
        interpolation=None if whole else "bicubic",
        mean=transform.mean,
        std=transform.std,
        augmented=True,
    )


class _Drawn:
    """A split whose images are views, each drawn from a stream named by epoch and place."""

    pixels = None  # views are worth processes of their own, even of images that lie in memory

    def __init__(self, views: Views, numbers: np.ndarray, epoch: int) -> None:
        self.split, self.seed, self.epoch, self.numbers = views.split, views.seed, epoch, numbers
        self.draw = augmentation(views.transform.crop, views.tuning, views.transform)

    def __len__(self) -> int:
        return len(self.numbers)

    def open(self, place: int) -> np.ndarray:
        """float32 [3, S, S]."""
        image = self.split.open(int(self.numbers[place]))
        with seeded(derive(self.seed, "finetune", "view", self.epoch, place)):
            found: np.ndarray = self.draw(image).numpy()
        return found


class _AsIs:
    """A transform that takes the view as it is."""

    def pixels(self, view: np.ndarray) -> np.ndarray:
        """float32 [3, S, S]."""
        return view
