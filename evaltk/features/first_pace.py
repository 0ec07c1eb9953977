"""How fast a pass will be, from a few images, so that a large first batch does not leave the reader without a rate.

What these images give is thrown away: a small batch of its own would move the last bits of some nets (XCiT on a CPU).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from evaltk.data import loading
from evaltk.data.transforms import Transform
from evaltk.features.nets import Extraction, FeatureNet, Spec, forward

TIMED = 2  # images, after one more that pays for what is made at first use
WORTH = 64  # images to make below which the pass is not worth trying out


def images_a_second(
    net: FeatureNet[Spec], load: loading.Views, views: Mapping[Transform, Sequence[Spec]], todo: range, how: Extraction
) -> float | None:
    """Decode and forward three images of `todo`; None where it is not worth it or one of them cannot be read."""
    if net.device.type == "cuda" or len(todo) < WORTH:
        return None  # a GPU's first batch is done at once
    decoding, computing = [], []
    for batch in ([[todo[0]]], [[n] for n in todo[1 : 1 + TIMED]]):
        started = time.perf_counter()
        items = [item for one in loading.batches(load, batch, workers=0) for item in one]  # type: ignore[arg-type]
        decoding.append(time.perf_counter() - started)
        if any(pixels is None for _, pixels, _ in items):
            return None  # the pass says so
        started = time.perf_counter()
        for n, (transform, specs) in enumerate(views.items()):
            forward(net, transform, np.stack([pixels[n] for _, pixels, _ in items]), tuple(specs))  # type: ignore[index]
        computing.append(time.perf_counter() - started)
    workers = loading.num_workers_for(load.split, how.workers)
    one, net_one = decoding[-1] / TIMED, computing[-1] / TIMED
    return 1 / max(1e-9, max(net_one, one / workers) if workers else one + net_one)
