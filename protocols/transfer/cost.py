"""How long the search of linear transfer takes, from one evaluation of its loss on noise."""

from __future__ import annotations

import time

from evaltk.bench import Bench
from evaltk.data.images import Dataset
from protocols.transfer.folds import FOLDS
from protocols.transfer.protocol import NEED, Settings

ROWS = 8192  # that are timed
TIMED = (100.0, 10.0, 1.0)  # strengths
EVALUATIONS = 12  # of the loss for each strength, all folds at once, as on CIFAR-10


def estimate(bench: Bench, dataset: Dataset, settings: Settings, an_image: float | None) -> float | None:
    """Seconds of all fits. an_image: not needed."""
    import numpy as np

    from evaltk import logistic
    from evaltk.features import noise

    num_rows, num_classes = len(dataset.train), len(dataset.train.classes)
    (some,) = noise.features(
        min(num_rows, ROWS),
        noise.widths(bench.backbone, bench.transform(NEED.view), (bench.class_feature(NEED).recipe,)),
        num_classes,
    )
    count = FOLDS if settings.mode == "cv5" else 1
    folds = np.arange(len(some.y)) % 5 != np.arange(count)[:, None]
    started = time.perf_counter()
    paths = logistic.fit_path(
        some.x, some.y, l2s=TIMED, num_classes=num_classes, intercept=True, folds=folds, device=bench.device
    )
    seconds = time.perf_counter() - started
    evaluations = sum(max(model.iterations for model in models) + 2 for models in zip(*paths, strict=True))
    return settings.strengths * EVALUATIONS * seconds / evaluations * num_rows / len(some.y)
