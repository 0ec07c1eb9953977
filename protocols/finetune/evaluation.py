"""Evaluate a fine-tuned net on the images of a split, each process on its share."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from evaltk import distributed
from evaltk.data import loading
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.features.checks import check_unreadable
from evaltk.features.extraction import Extraction, auto_batch
from evaltk.metrics.classification import rank_of_label
from evaltk.models.backbone import Backbone, numerics
from protocols.finetune.recipe import Classifier


@torch.no_grad()
def classify(
    model: Classifier, backbone: Backbone, split: Split, transform: Transform, how: Extraction
) -> tuple[Tensor, Tensor, Tensor]:
    """(classes put before the true one, predicted class), each [N] int64, -1 for unreadable images; (the softmax
    probability of that class [N] float32, NaN for them); on the CPU.

    Args:
        backbone: whose device and precision are used.

    Raises: DataError: more unreadable images than allowed.
    """
    mine = list(range(distributed.rank(), len(split), distributed.world_size()))
    chunk = how.batch_size or auto_batch(backbone)
    batches = [mine[i : i + chunk] for i in range(0, len(mine), chunk)]
    shifted = torch.zeros(2, len(split), dtype=torch.int64)  # rank and class, plus 1: other processes add 0 to mine
    sure = torch.zeros(len(split))
    messages: list[str] = []
    model.eval()
    load = partial(loading.pixels, split, transform)
    for items in loading.batches(load, batches, loading.num_workers_for(split, how.workers)):
        messages += [message for _, pixels, message in items if pixels is None]
        readable = [(index, pixels) for index, pixels, _ in items if pixels is not None]
        if readable:
            at = torch.tensor([index for index, _ in readable])
            x = torch.from_numpy(np.stack([pixels for _, pixels in readable])).to(backbone.device)
            with numerics(backbone.device, backbone.precision):
                logits = model(transform.normalise(x)).float().cpu()
            shifted[0, at] = rank_of_label(logits, torch.from_numpy(split.labels)[at].long()) + 1
            shifted[1, at] = logits.argmax(dim=1) + 1
            sure[at] = logits.double().softmax(dim=1).amax(dim=1).float()
    rank, predicted = distributed.all_reduce(shifted.to(backbone.device)).cpu() - 1
    confidence = distributed.all_reduce(sure.to(backbone.device)).cpu().masked_fill(rank < 0, torch.nan)
    bad = (rank < 0).nonzero()[:, 0]
    names = tuple(split.image_id(int(number)) for number in bad)
    check_unreadable(split, names, how.skip_bad_images, messages[0] if messages else "")
    return rank, predicted, confidence
