"""Named random streams: a random number depends on its stream's name only, not on other draws or the process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Samples [*shape] float32 from N(0, std^2), the same on every processor.

    Uses numpy's ziggurat: a table look-up and one product for 99 of 100 samples. torch's normal sampling uses log and
    cos from the processor's vector library, and `trunc_normal_` has changed between torch versions.
    """
    import numpy as np
    import torch

    stream = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return torch.from_numpy((stream.standard_normal(shape) * std).astype(np.float32))


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators of Python, numpy, torch and `device` inside; restore their state afterwards.

    For libraries that sample from global generators and cannot be given one.
    """
    import numpy as np
    import torch

    where = torch.device(device)
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        before = random.getstate(), np.random.get_state()
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside, the global generators of Python, numpy and torch go on afterwards as before.

    CUDA's are included where CUDA is in use.
    """
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state()
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
