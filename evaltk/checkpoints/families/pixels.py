"""`pixels:SIZE`: no net at all. The feature is the normalised image itself, SIZE x SIZE, the other floor."""

from __future__ import annotations

import re

from evaltk.checkpoints.families import Family
from evaltk.checkpoints.rawfile import Converted
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import SettingsError
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, Arch


def from_name(rest: str, options: ReadOptions) -> Converted:
    """A checkpoint without weights. Raises: SettingsError: SIZE is no number of pixels."""
    if not re.fullmatch(r"[0-9]{1,4}", rest) or int(rest) < 1:
        raise SettingsError(wanted="a side in pixels", got=repr(rest), where="pixels:SIZE", do="e.g. pixels:32")
    size = int(rest)
    arch = Arch(
        name=f"pixels_{size}",
        kind="pixels",
        patch_size=size,
        embed_dim=3 * size * size,
        depth=0,
        num_heads=0,
        mlp_ratio=0.0,
        img_size=size,
        norm_eps=1e-6,
    )
    return Converted(
        branch="none",
        weights={},
        arch=arch,
        position="dino",
        mean=options.mean or IMAGENET_MEAN,
        std=options.std or IMAGENET_STD,
    )


FAMILY = Family(name="pixels", scheme="pixels", from_name=from_name)
