"""Named random streams: a number drawn for one purpose never depends on what else was drawn, or on the process."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: object) -> int:
    """A seed in [0, 2^63) for the stream called `names`, the same on every machine."""
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A fresh CPU generator for the stream called `names`, e.g. ``generator(0, "knn", "choose")``."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def normal(*shape: int, std: float, generator: torch.Generator) -> torch.Tensor:
    """Draws [*shape] float32 from N(0, std^2), the same on every processor.

    By numpy's ziggurat, a table and one product for 99 of 100 draws. Torch's own normal draws take logarithms and
    cosines from each processor's vector library, and `trunc_normal_` has changed between torch's versions.
    """
    import numpy as np
    import torch

    stream = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return torch.from_numpy((stream.standard_normal(shape) * std).astype(np.float32))
