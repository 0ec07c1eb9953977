"""How long a linear probe takes, from some of its steps on noise."""

from __future__ import annotations

import math

from evaltk.bench import Bench
from evaltk.data.images import Dataset
from protocols.linear.settings import Settings

STEPS = 32  # that are timed
ROWS = 2048  # that evaluation is timed on


def estimate(bench: Bench, dataset: Dataset, settings: Settings, an_image: float | None) -> float | None:
    """Seconds of training and evaluating all heads; None for random crops where no image was timed.

    Args:
        an_image: seconds from an image's file to its features.
    """
    import numpy as np

    from evaltk.features import noise
    from protocols.linear import batches, data, training

    if settings.head is not None:
        return 0.0
    job = data.job(bench, dataset, settings)
    if job.store.done():
        return 0.0
    if an_image is None and not settings.fast:
        return None
    learnt, evaluated = len(dataset.train) - len(job.held), len(dataset.test) + len(job.held)
    num_classes = len(dataset.train.classes)
    widths = noise.widths(bench.backbone, bench.transform(), job.recipes)
    some = noise.features(min(learnt, STEPS * settings.batch), widths, num_classes)
    seen = noise.features(min(evaluated, ROWS), widths, num_classes)
    sweep = training.Sweep(
        recipes=job.recipes, lrs=job.lrs, num_classes=num_classes, epochs=2, batch=settings.batch, seed=0
    )
    rows = np.arange(len(some[0].y))
    source = batches.Cached(features=some, rows=rows, batch=settings.batch, seed=0, device=bench.device)
    a_step, a_row = training.pace(sweep, source, seen, device=bench.device)
    an_epoch = math.ceil(learnt / settings.batch) * a_step + evaluated * a_row
    return settings.epochs * (an_epoch + (0.0 if settings.fast else learnt * (an_image or 0.0)))
