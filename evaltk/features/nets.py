"""What extraction asks of a net, and one forward pass: pixels to features, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import SettingsError
from evaltk.features import checks
from evaltk.features.shards import SHARD
from evaltk.sending import Sender, read_back
from evaltk.types import Arch, PositionRule, Precision

Back = Callable[[], list[torch.Tensor]]


class FeatureSpec(Protocol):
    """Which feature to make: a value that can be a key, and a text for the cache key."""

    def __hash__(self) -> int: ...
    def text(self) -> str: ...


Spec = TypeVar("Spec", bound=FeatureSpec)
SpecIn = TypeVar("SpecIn", bound=FeatureSpec, contravariant=True)


class FeatureNet(Protocol[SpecIn]):
    """What makes features: images [B, 3, H, W], normalised -> float32 [B, D] for each spec, in their order.

    The properties say what the features depend on and where they are made.
    """

    @property
    def arch(self) -> Arch: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def digest(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def position(self) -> PositionRule | None: ...
    def features(self, images: torch.Tensor, specs: tuple[SpecIn, ...], /) -> list[torch.Tensor]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """How to extract; none of it changes what comes out beyond rounding.

    Attributes:
        batch_size: images a forward pass, None: by the net's size. workers: decoding processes, None: by the machine.
        skip_bad_images: how many unreadable images may be left out of a split.
        shard: images written at a time.
        pixels: bytes of decoded pixels to keep for the next net; 0: none.
    """

    batch_size: int | None = None
    workers: int | None = None
    skip_bad_images: int = 0
    shard: int = SHARD
    pixels: int = 0

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--batch-size", self.batch_size, 1),
            ("--workers", self.workers, 0),
            ("--skip-bad-images", self.skip_bad_images, 0),
            ("shard", self.shard, 1),
            ("--pixels", self.pixels, 0),
        ):
            if value is not None and value < least:
                raise SettingsError(wanted=f"at least {least}", got=str(value), where=flag, do="use a larger number")


def forward(
    net: FeatureNet[Spec],
    transform: Transform,
    pixels: np.ndarray,
    specs: tuple[Spec, ...],
    sender: Sender | None = None,
) -> list[torch.Tensor]:
    """[B, D] for each spec, from pixels uint8 [B, h, w, 3]. Raises: SettingsError: out of GPU memory."""
    with checks.enough_memory(net.device, len(pixels)):
        x = (sender or Sender(net.device)).send(torch.from_numpy(pixels))
        return net.features(transform.normalise(x), specs)


def back(features: list[torch.Tensor]) -> Back:
    """Begin to read features [B, D] each back, all with one copy; what is returned waits for it."""
    if features[0].device.type == "cpu":
        return lambda: features
    wait, widths = read_back(torch.cat(features, dim=1)), [x.shape[1] for x in features]
    return lambda: list(wait().split(widths, dim=1))


def finite(x: torch.Tensor, split: Split, indices: Sequence[int]) -> np.ndarray:
    """x [B, D] on the host, of the images `indices`. Raises: DataError: a value that is not finite (it is named)."""
    checks.check_finite(x, lambda row: f"{split.dataset} {split.name}, image {split.image_id(indices[row])}")
    return x.cpu().contiguous().numpy()


def auto_batch(net: FeatureNet[Any]) -> int:
    """A batch size by the number of tokens per image: enough to fill the device, few enough to fit."""
    arch = net.arch
    tokens = (arch.img_size // arch.patch_size) ** 2 + 1
    budget = 16_384 if net.device.type == "cpu" else 131_072
    return int(max(8, min(512, 2 ** math.floor(math.log2(budget / tokens))))) if tokens < budget else 8
