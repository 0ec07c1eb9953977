"""Features of noise, to time what is done with features before there are any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaltk.data.transforms import Transform
from evaltk.features.nets import FeatureNet, Spec, forward
from evaltk.types import FeatureKey, Features


def widths(net: FeatureNet[Spec], transform: Transform, specs: tuple[Spec, ...]) -> list[int]:
    """D of each feature, from a black image."""
    black = np.zeros((1, transform.crop, transform.crop, 3), np.uint8)
    return [x.shape[1] for x in forward(net, transform, black, specs)]


def features(rows: int, dims: Sequence[int], num_classes: int) -> tuple[Features, ...]:
    """Features [rows, D] of each width in `dims` that tell nothing of their classes, to time what is done with them."""
    draw = np.random.default_rng(0)
    y = np.arange(rows) % num_classes
    key = FeatureKey(
        sha256="", dataset="", split="noise", transform="", recipe="", precision="fp32", position="", version=0
    )
    ids = tuple(map(str, range(rows)))
    return tuple(Features(x=draw.normal(size=(rows, d)).astype(np.float32), y=y, ids=ids, key=key) for d in dims)
