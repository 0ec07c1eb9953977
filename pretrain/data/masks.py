"""iBOT's random block masks: which patches of a global crop are hidden from the student.

Every draw comes from the given generator, so a mask depends on its stream alone.

Source: ibot loader.py:33-116 (pred_shape "block"), after BEiT's masking_generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evaltk.errors import SettingsError

_ATTEMPTS = 10  # tries to place one more block before giving up


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Masked:
    """The masked patches of I images, as a device takes them without being asked how many there are.

    Attributes:
        rows: int64 [M], positions among all I * N patches, in order. weights: float64 [M], 1 / (I x masked patches of
            the image), so that their sum over rows is a mean over images of means over patches.
    """

    rows: Tensor
    weights: Tensor

    def pin_memory(self) -> Masked:
        """The same in page-locked memory."""
        return Masked(rows=self.rows.pin_memory(), weights=self.weights.pin_memory())

    def to(self, device: torch.device) -> Masked:
        """The same on the device."""
        return Masked(rows=self.rows.to(device, non_blocking=True), weights=self.weights.to(device, non_blocking=True))


def masked(mask: Tensor) -> Masked:
    """The masked patches of a bool mask [I, ...]."""
    flat = mask.flatten(1)
    count = flat.sum(dim=1)
    per_image = 1.0 / (count.clamp(min=1).double() * len(flat))
    return Masked(rows=flat.flatten().nonzero().flatten(), weights=per_image.repeat_interleave(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is masked, and in blocks of what shape.

    ratios, half_widths: a crop's ratio is drawn uniformly from one of the ranges ratio +- half width, all equally
    likely; by default half of the crops are unmasked and 0.1 to 0.5 of the others is masked. min_aspect: blocks have a
    height over width in [min_aspect, 1 / min_aspect], log-uniform.

    Raises: SettingsError: ranges outside [0, 1], lists of different length, or min_aspect outside (0, 1].
    """

    ratios: tuple[float, ...] = (0.0, 0.3)
    half_widths: tuple[float, ...] = (0.0, 0.2)
    min_aspect: float = 0.3

    def __post_init__(self) -> None:
        fits = len(self.ratios) == len(self.half_widths) > 0
        if not fits or any(w < 0 or r - w < 0 or r + w > 1 for r, w in zip(self.ratios, self.half_widths, strict=True)):
            raise SettingsError(
                wanted="as many half widths as ratios, each ratio +- half width in [0, 1]",
                got=f"{self.ratios} and {self.half_widths}",
                where="masks.ratios, masks.half_widths",
                do="use (0.0, 0.3) and (0.0, 0.2)",
            )
        if not 0.0 < self.min_aspect <= 1.0:
            raise SettingsError(
                wanted="a number in (0, 1]", got=str(self.min_aspect), where="masks.min_aspect", do="use 0.3"
            )


def sample_masks(
    count: int, grid: tuple[int, int], *, generator: torch.Generator, settings: Settings | None = None
) -> Tensor:
    """Independent masks for `count` crops.

    Args:
        count: number of crops.
        grid: patches (height, width), (14, 14) for 224 px and patches of 16.
        generator: CPU generator for all draws.
        settings: None for iBOT's.

    Returns: bool [count, height, width], True where masked.
    Raises: SettingsError: a grid without patches.
    """
    settings = Settings() if settings is None else settings
    masks = torch.zeros(count, *grid, dtype=torch.bool)
    for index in range(count):
        ratio = sample_ratio(generator=generator, settings=settings)
        masks[index] = block_mask(grid, ratio, generator=generator, min_aspect=settings.min_aspect)
    return masks


def sample_ratio(*, generator: torch.Generator, settings: Settings | None = None) -> float:
    """The share of patches to mask in one crop, in [0, 1]: one of the ranges at random, then uniform within it."""
    settings = Settings() if settings is None else settings
    choice, position = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    index = int(choice * len(settings.ratios))
    return settings.ratios[index] + settings.half_widths[index] * (2.0 * position - 1.0)


def block_mask(grid: tuple[int, int], ratio: float, *, generator: torch.Generator, min_aspect: float = 0.3) -> Tensor:
    """A mask of rectangles that covers at most ratio x height x width patches.

    Blocks are added until that many are covered or ten attempts in a row fail, so slightly fewer may be masked.

    Args:
        grid: patches (height, width).
        ratio: share of patches to mask, in [0, 1].
        generator: CPU generator for all draws.
        min_aspect: lower end of height over width; its inverse is the upper one.

    Returns: bool [height, width], True where masked.
    Raises: SettingsError: a grid without patches, or ratio outside [0, 1].
    """
    height, width = grid
    if height < 1 or width < 1:
        raise SettingsError(
            wanted="a grid of at least one patch", got=str(grid), where="mask grid", do="raise views.global_size"
        )
    if not 0.0 <= ratio <= 1.0:
        raise SettingsError(wanted="a ratio in [0, 1]", got=str(ratio), where="mask ratio", do="use at most 0.5")
    mask = torch.zeros(height, width, dtype=torch.bool)
    limit, count = ratio * height * width, 0
    while count < limit:
        block = _find_block(mask, limit - count, generator, min_aspect)
        if block is None:
            break
        mask[block] = True
        count = int(mask.sum())
    return mask


def _find_block(
    mask: Tensor, remaining: float, generator: torch.Generator, min_aspect: float
) -> tuple[slice, slice] | None:
    """A block that masks between 1 and `remaining` more patches, or None if ten attempts fail."""
    height, width = mask.shape
    smallest = (min(height, width) // 3) ** 2  # 16 on 14 x 14
    for _ in range(_ATTEMPTS):
        size, shape, down, right = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        # With fewer than `smallest` patches left the two bounds swap, as in the original.
        area = smallest + (remaining - smallest) * size
        aspect = math.exp(math.log(min_aspect) * (1.0 - 2.0 * shape))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h >= height or w >= width:
            continue
        top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
        block = (slice(top, top + h), slice(left, left + w))
        newly_masked = h * w - int(mask[block].sum())
        if 0 < newly_masked <= remaining:
            return block
    return None
