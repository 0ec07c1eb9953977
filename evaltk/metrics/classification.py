"""Classification accuracies; fractions in [0, 1]."""

from __future__ import annotations

import math

import torch

EQUAL = 1e-12  # scores closer than this are equal: they are means of fractions in float64


def rank_of_label(votes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Number of classes ranked before the true one: [N] int64, 0 where the prediction is correct.

    Args:
        votes: [N, C], larger is better; ties are ranked by class id. labels: [N] int64.

    >>> rank_of_label(torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]), torch.tensor([2, 1]))
    tensor([1, 1])
    """
    own = votes.gather(1, labels[:, None])
    smaller_id = torch.arange(votes.shape[1], device=votes.device) < labels[:, None]
    return ((votes > own) | ((votes == own) & smaller_id)).sum(dim=1)


def top_accuracy(rank: torch.Tensor, k: int) -> float:
    """Fraction of images whose true class is among the first k; rank: [N] as returned by `rank_of_label`.

    >>> top_accuracy(torch.tensor([0, 1, 7, 0]), k=5)
    0.75
    """
    return float((rank < k).double().mean())


def mean_per_class(correct: torch.Tensor, labels: torch.Tensor, num_classes: int) -> float:
    """Mean accuracy per class over the classes that occur; NaN without images.

    The sum is rounded once (`math.fsum`), so the order of the classes does not matter.

    Args:
        correct: bool [N]. labels: int64 [N].

    >>> mean_per_class(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), num_classes=3)
    0.75
    """
    total = torch.bincount(labels, minlength=num_classes).double()
    right = torch.bincount(labels[correct], minlength=num_classes).double()
    accuracies = (right[total > 0] / total[total > 0]).tolist()
    return math.fsum(accuracies) / len(accuracies) if accuracies else math.nan
