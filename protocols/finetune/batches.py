"""What a net is fine-tuned on: views of the images of each group, drawn by timm from the image's own stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from evaltk import distributed
from evaltk.data import loading
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError
from evaltk.features.checks import check_unreadable
from evaltk.features.extraction import Extraction
from evaltk.seeding import derive, seeded
from evaltk.types import PixelView
from protocols.finetune.recipe import Tuning, groups, order

# Nets for images of up to 32 px see them whole, moved by up to an eighth: run_class_finetuning.py, build_transform, has
# 4 px for its 32.
WHOLE, MARGIN = 32, 8
JITTER = 0.4
Group = tuple[int, Tensor, Tensor]  # its number in the step, x [G, 3, S, S] float32 normalised, y [G] int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The images `rows` of a split as they are trained on; another image of its group replaces an unreadable one.

    `transform`: of the evaluation, whose size and pixel statistics are taken.
    """

    split: Split
    rows: np.ndarray
    transform: Transform
    tuning: Tuning
    seed: int
    how: Extraction

    def epoch(self, epoch: int, unreadable: set[int]) -> Iterator[list[Group]]:
        """The steps of an epoch: this process's groups of each.

        Args:
            unreadable: numbers of the images that could not be read so far; those of this epoch are added.

        Raises: DataError: more unreadable images than allowed, or no readable one in a group.
        """
        rank, world = distributed.rank(), distributed.world_size()
        numbers = self.rows[order(len(self.rows), self.tuning.repeats, epoch, seed=self.seed)]
        places = groups(np.arange(len(numbers)), self.tuning)
        mine = [(g, places[s, g]) for s in range(len(places)) for g in range(rank, places.shape[1], world)]
        draw = augmentation(self.transform.crop, self.tuning, self.transform)
        load = partial(_view, self.split, numbers, draw, self.seed, epoch)
        # Views are worth processes of their own, even of images in memory.
        workers = loading.num_workers(self.how.workers, len(numbers))
        loader = loading.batches(load, [at.tolist() for _, at in mine], workers)
        loaded = iter(zip(mine, loader, strict=True))
        for _ in range(len(places)):
            yield [self._group(*next(loaded), numbers, unreadable) for _ in range(rank, places.shape[1], world)]

    def _group(
        self, mine: tuple[int, np.ndarray], items: list[loading.Item], numbers: np.ndarray, unreadable: set[int]
    ) -> Group:
        number, at = mine
        readable = [i for i, (_, pixels, _) in enumerate(items) if pixels is not None]
        if len(readable) < len(items):
            unreadable.update(int(numbers[at[i]]) for i in range(len(items)) if i not in readable)
            names = tuple(self.split.image_id(n) for n in sorted(unreadable))
            message = next(message for _, pixels, message in items if pixels is None)
            check_unreadable(self.split, names, self.how.skip_bad_images, message)
        if not readable:
            where = f"{self.split.dataset} {self.split.name}, image {self.split.image_id(int(numbers[at[0]]))}"
            wanted, do = f"a readable image in each group of {len(items)}", "restore the files"
            raise DataError(wanted=wanted, got=f"none ({message})", where=where, do=do)
        taken = [i if items[i][1] is not None else readable[i % len(readable)] for i in range(len(items))]
        x = torch.from_numpy(np.stack([pixels for i in taken if (pixels := items[i][1]) is not None]))
        return number, x, torch.from_numpy(self.split.labels[numbers[at[taken]]]).long()


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


def _view(split: Split, numbers: np.ndarray, draw: Any, seed: int, epoch: int, place: int) -> np.ndarray:
    """The view at a place of an epoch, float32 [3, S, S], drawn from a stream named by epoch and place."""
    image = split.open(int(numbers[place]))
    with seeded(derive(seed, "finetune", "view", epoch, place)):
        view: np.ndarray = draw(image).numpy()
    return view
