"""Parts of a split: images held out of training, and the images that numbers name as a split of their own."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from evaltk.data.images import Split
from evaltk.seeding import generator


def hold_out(labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Numbers of the images held out, rising: `share` of all to the nearest (at least one), each class in proportion.

    A class of few images may have none held out; the last image of a class never is.

    Args:
        labels: [N] int64. share: in [0, 1); 0: none.
    """
    spare = len(labels) - len(np.unique(labels))
    count = min(spare, max(1, round(share * len(labels)))) if share > 0 else 0
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
