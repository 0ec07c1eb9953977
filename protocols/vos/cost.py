"""How long label propagation takes, from the first frames of a video."""

from __future__ import annotations

import time

from evaltk.bench import Bench
from evaltk.data import frames as video
from evaltk.datasets.davis2017 import Sequences
from protocols.vos.protocol import Settings, propagate, statistics_of

FEW, MORE = 2, 4  # frames that are timed
PATIENCE = 5.0  # seconds, beyond which the shorter one has to do


def estimate(bench: Bench, dataset: Sequences, settings: Settings, an_image: float | None) -> float | None:
    """Seconds of all sequences: a frame costs its tokens, and as much again for each frame that it looks back to.

    Args:
        an_image: not needed.
    """
    settings = statistics_of(bench, settings)
    frames = dataset.sequences[0].frames
    first = video.read_ids(dataset.sequences[0].masks[0])
    propagate(bench.backbone, frames[:1], first, settings)  # pays for what is made at first use

    def timed(count: int) -> float:
        started = time.perf_counter()
        propagate(bench.backbone, frames[:count], first, settings)
        return time.perf_counter() - started

    few = min(FEW, len(frames))
    seconds = timed(few)
    tokens, back = seconds / few, 0.0
    if seconds < PATIENCE and len(frames) >= MORE:
        # Frames look back to the first and to up to `previous` more: none, 1 | none, 1, 2, 3.
        back = max(0.0, (timed(MORE) - 2 * seconds) / 4)
        tokens = max(0.0, (seconds - back) / 2)
    counts = [len(sequence.frames) for sequence in dataset.sequences]
    looked = [sum(min(t, settings.previous + 1) for t in range(count)) for count in counts]
    return tokens * sum(counts) + back * sum(looked)
