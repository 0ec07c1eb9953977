"""No net at all: the token is the normalised image itself, flattened, and stands for class and patch alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaltk.errors import CheckpointError, SettingsError
from evaltk.models.kind import Kind, Shapes, Weights
from evaltk.types import Arch, PositionRule


class Pixels(Kind):
    """See `Kind`."""

    name = "pixels"

    def settle(self, stated: Arch | None, weights: Weights, path: Path) -> Arch:
        """What is stated. Raises: CheckpointError: nothing is."""
        if stated is None:
            raise CheckpointError(wanted="a size in pixels", got="none", where=path, do="name pixels:SIZE")
        return stated

    def shapes(self, arch: Arch) -> Shapes:
        """None."""
        return {}

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule | None) -> nn.Module:
        """Nothing to compute."""
        return nn.Identity()

    def check_images(self, arch: Arch, side: tuple[int, int], position: PositionRule | None) -> None:
        """Exactly the size named."""
        if side != (arch.img_size, arch.img_size):
            do = f"name pixels:{min(side)}, or --crop {arch.img_size}"
            raise SettingsError(wanted=f"images of {arch.img_size} px", got=f"{side}", where=arch.name, do=do)

    def blocks(
        self, net: Any, arch: Arch, images: torch.Tensor, *, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """The image, twice: as class feature and as the one patch."""
        flat = images.float().flatten(1).unsqueeze(1)
        return [torch.cat([flat, flat], dim=1)], (1, 1)


KIND = Pixels()
