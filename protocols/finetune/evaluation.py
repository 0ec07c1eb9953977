"""Judging a fine-tuned net on the images of a split, each process on its share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaltk import distributed
from evaltk.data import loading as decoding
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError
from evaltk.features import extraction as features
from evaltk.features.extraction import Extraction
from evaltk.metrics.classification import rank_of_label
from evaltk.models.backbone import Backbone, numerics
from protocols.finetune.recipe import Classifier


@torch.no_grad()
def classify(
    model: Classifier, backbone: Backbone, split: Split, transform: Transform, how: Extraction
) -> tuple[Tensor, Tensor]:
    """(classes put before the true one, predicted class), each [N] int64 on the CPU; -1 for unreadable images.

    Args:
        backbone: whose device and precision are used.

    Raises: DataError: more unreadable images than allowed.
    """
    mine = list(range(distributed.rank(), len(split), distributed.world_size()))
    chunk = how.batch_size or features.auto_batch(backbone)
    batches = [mine[i : i + chunk] for i in range(0, len(mine), chunk)]
    found = torch.zeros(2, len(split), dtype=torch.int64)  # one more than what is meant: others' images add nothing
    lost: list[str] = []
    model.eval()
    for items in decoding.batches(split, transform, batches, how.workers):
        lost += [message for _, pixels, message in items if pixels is None]
        there = [(index, pixels) for index, pixels, _ in items if pixels is not None]
        if there:
            at = torch.tensor([index for index, _ in there])
            x = torch.from_numpy(np.stack([pixels for _, pixels in there])).to(backbone.device)
            with numerics(backbone.device, backbone.precision):
                logits = model(transform.normalise(x)).float().cpu()
            found[0, at] = rank_of_label(logits, torch.from_numpy(split.labels)[at].long()) + 1
            found[1, at] = logits.argmax(dim=1) + 1
    rank, predicted = distributed.all_reduce(found.to(backbone.device)).cpu() - 1
    bad = (rank < 0).nonzero()[:, 0]
    if len(bad) > how.skip_bad_images:
        raise DataError(
            wanted=f"at most {how.skip_bad_images} unreadable images in {split.dataset} {split.name}",
            got=f"{len(bad)}" + (f" ({lost[0]})" if lost else ""),
            where=(split.root or Path()) / split.image_id(int(bad[0])),
            do="restore the file, or allow some to be left out with --skip-bad-images N",
        )
    return rank, predicted
