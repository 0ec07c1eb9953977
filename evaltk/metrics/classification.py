"""Accuracies as pure functions of ranks and predictions; fractions in [0, 1]."""

from __future__ import annotations

import math

import torch

EQUAL = 1e-12  # scores nearer to each other than this are equal: they are means of fractions, in float64


def rank_of_label(votes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many classes stand before the true one: [N] int64, 0 where the prediction is right.

    Args:
        votes: [N, C], larger is better. labels: [N] int64. Equal votes stand in order of the class id.
    """
    own = votes.gather(1, labels[:, None])
    smaller_id = torch.arange(votes.shape[1], device=votes.device) < labels[:, None]
    return ((votes > own) | ((votes == own) & smaller_id)).sum(dim=1)


def top_accuracy(rank: torch.Tensor, k: int) -> float:
    """Share of images whose true class is among the first k: `rank` [N] as `rank_of_label` gives it."""
    return float((rank < k).double().mean())


def mean_per_class(correct: torch.Tensor, labels: torch.Tensor, num_classes: int) -> float:
    """Mean over the classes that occur of the share of their images that are right. correct: bool [N], labels: [N].

    The sum is rounded once (`math.fsum`), so that the same shares give the same mean whatever their order.
    """
    total = torch.bincount(labels, minlength=num_classes).double()
    right = torch.bincount(labels[correct], minlength=num_classes).double()
    shares = (right[total > 0] / total[total > 0]).tolist()
    return math.fsum(shares) / len(shares) if shares else math.nan
