"""The two ways from patch tokens to classes: a linear layer trained by gradient descent, and nearest patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from evaltk import neighbours, progress
from evaltk.bench import Bench
from evaltk.data.dense import VOID, DenseSplit
from evaltk.errors import DataError
from evaltk.models.backbone import Backbone
from evaltk.seeding import normal
from protocols.segmentation.settings import Settings
from protocols.segmentation.views import Views

Segment = Callable[[torch.Tensor], torch.Tensor]  # patch tokens [h, w, D] -> scores of classes [C, h, w]
STD = 0.01  # of the first weights (mmsegmentation, BaseDecodeHead)


def grid_tokens(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """Patch tokens of the last block after the final norm: [B, h, w, D] from images [B, 3, H, W]."""
    tokens = backbone.tokens(images)[-1]
    return tokens.patches.unflatten(1, tokens.grid)


class Head(nn.Module):
    """BatchNorm over all patches, then a linear layer: [B, h, w, D] -> [B, C, h, w] (DINOv2's BNHead)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(width), nn.Linear(width, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the classes at each patch."""
        flat = self.norm(tokens.flatten(0, 2))
        return self.linear(flat).unflatten(0, tokens.shape[:3]).permute(0, 3, 1, 2)


def linear(bench: Bench, split: DenseSplit, views: Views, settings: Settings) -> tuple[Segment, list[float]]:
    """(the trained layer, its loss by step). The net stays frozen; crops depend on seed and step alone.

    Raises: DataError: a label map that will not do, or a loss that is not finite.
    """
    backbone, device = bench.backbone, bench.backbone.device
    steps, warmup = settings.steps(), min(settings.warmup, settings.steps() // 10)
    head: Head | None = None
    losses: list[float] = []
    order = _order(bench, len(split), steps * settings.batch)
    with progress.bar(f"linear segmentation of {split.dataset}", steps, unit="steps") as advance:
        for step in range(steps):
            rows = order[step * settings.batch : (step + 1) * settings.batch]
            pairs = [views.crop(split, row, step, place) for place, row in enumerate(rows)]
            pixels, labels = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
            tokens = grid_tokens(backbone, views.transform.normalise(pixels.to(device))).clone()
            if head is None:
                head = _begin(bench, tokens.shape[-1], len(split.classes))
                adam = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
            for group in adam.param_groups:
                group["lr"] = settings.lr * rate(step, steps, warmup)
            scores = F.interpolate(head(tokens), size=labels.shape[-2:], mode="bilinear", align_corners=False)
            target = labels.to(device).long()
            loss = F.cross_entropy(scores, target, ignore_index=VOID, reduction="sum")
            loss = loss / (target != VOID).sum().clamp(min=1)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                do = "--segmentation.lr lower, or look at the checkpoint"
                raise DataError(wanted="a finite loss", got=str(losses[-1]), where=f"step {step + 1}", do=do)
            advance(1)
    assert head is not None
    trained = head.eval()

    def segment(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = trained(tokens[None])[0]
        return found

    return segment, losses


def rate(step: int, steps: int, warmup: int) -> float:
    """The share of the peak learning rate at a step: linear from near 0 within the warm-up, and linear to 0 at the end.

    mmcv's `poly` with power 1: the falling line times the rising one, which is one step ahead of mmcv's here, so that
    the first step is not lost (mmcv/runner/hooks/lr_updater.py, get_warmup_lr; there from 1e-6).
    """
    rising = min(1.0, (step + 1) / (warmup + 1))
    return rising * (1 - step / steps)


def _begin(bench: Bench, width: int, num_classes: int) -> Head:
    head = Head(width, num_classes)
    with torch.no_grad():
        stream = bench.generator("segmentation", "weights")
        head.linear.weight.copy_(normal(num_classes, width, std=STD, generator=stream))
        head.linear.bias.zero_()
    return head.to(bench.backbone.device)


def _order(bench: Bench, count: int, length: int) -> list[int]:
    """Numbers of images, epoch after epoch, each epoch in an order of its own."""
    made: list[int] = []
    epoch = 0
    while len(made) < length:
        made += torch.randperm(count, generator=bench.generator("segmentation", "order", epoch)).tolist()
        epoch += 1
    return made[:length]


def nearest(bench: Bench, split: DenseSplit, views: Views, settings: Settings) -> tuple[Segment, int]:
    """(classification of patches by their nearest training patches, how many are searched).

    A training patch votes for the classes of its pixels in proportion; of each image equally many patches are drawn.
    Votes are weighted by exp(cosine / temperature).
    """
    rows, votes = [], []
    each = max(1, settings.bank // len(split))
    for index, tokens, share in _patches(bench, split, views):
        there = torch.nonzero(share.sum(dim=1) > 0)[:, 0]
        drawn = torch.randperm(len(there), generator=bench.generator("segmentation", "bank", index))[:each]
        rows.append(tokens[there[drawn]])
        votes.append(share[there[drawn]])
    bank, labels = torch.cat(rows)[: settings.bank].numpy(), torch.cat(votes)[: settings.bank]
    if not len(bank):
        where = f"{split.dataset} {split.name}"
        raise DataError(wanted="labelled patches", got="none", where=where, do="look at the label maps: all are void")
    k = min(settings.k, len(bank))

    def segment(tokens: torch.Tensor) -> torch.Tensor:
        h, w, width = tokens.shape
        cosine, index = neighbours.search(tokens.reshape(-1, width).cpu().numpy(), bank, k, device=bench.device)
        weights = ((cosine.double() - cosine[:, :1].double()) / settings.temperature).exp()
        scores = (weights[..., None] * labels[index].double()).sum(dim=1) / weights.sum(dim=1, keepdim=True)
        return scores.float().T.unflatten(1, (h, w))

    return segment, len(bank)


def _patches(bench: Bench, split: DenseSplit, views: Views) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(image, patch tokens [P, D], share of each class among their labelled pixels [P, C]; 0 where all are void)."""
    with progress.bar(f"patches of {split.dataset} {split.name}", len(split)) as advance:
        for index in range(len(split)):
            pixels, labels = split.pair(index)
            tokens = grid_tokens(bench.backbone, views.whole(pixels))[0].cpu()
            yield index, tokens.flatten(0, 1), shares(labels, tokens.shape[:2], len(split.classes)).flatten(0, 1)
            advance(1)


def shares(labels: np.ndarray, grid: tuple[int, ...], num_classes: int) -> torch.Tensor:
    """Share of each class among the labelled pixels of each cell [h, w, C] float32, from classes uint8 [H, W].

    A pixel belongs to the cell that its centre falls into.
    """
    height, width = labels.shape
    rows = (np.arange(height) * 2 + 1) * grid[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * grid[1] // (2 * width)
    cells = (rows[:, None] * grid[1] + columns)[labels != VOID]
    code = cells.astype(np.int64) * num_classes + labels[labels != VOID]
    count = np.bincount(code, minlength=grid[0] * grid[1] * num_classes).reshape(*grid, num_classes)
    return torch.from_numpy(count / np.maximum(count.sum(axis=2, keepdims=True), 1)).float()
