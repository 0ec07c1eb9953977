"""Accuracies from ranks and predictions, by hand."""

from __future__ import annotations

import itertools
import math

import torch

from evaltk.metrics.classification import mean_per_class, rank_of_label, top_accuracy


def test_equal_votes_stand_in_order_of_the_class() -> None:
    votes = torch.tensor([[1.0, 2.0, 2.0]]).repeat(3, 1)
    rank = rank_of_label(votes, torch.tensor([0, 1, 2]))
    assert rank.tolist() == [2, 0, 1]
    assert top_accuracy(rank, 1) == 1 / 3


def test_mean_per_class_by_hand() -> None:
    """Class 0: 1 of 2; class 2: 3 of 3; class 1 does not occur."""
    labels, correct = torch.tensor([0, 2, 0, 2, 2]), torch.tensor([True, True, False, True, True])
    assert mean_per_class(correct, labels, 4) == 0.75
    assert math.isnan(mean_per_class(correct[:0], labels[:0], 4))


def test_mean_per_class_is_one_number_whatever_the_order_of_the_classes() -> None:
    """Recalls of 1/10, 2/10, 3/10, 7/10: sums in other orders differ in their last bit."""
    right = (1, 2, 3, 7)
    found = set()
    for order in itertools.permutations(right):
        labels = torch.arange(4).repeat_interleave(10)
        correct = torch.cat([torch.arange(10) < count for count in order])
        found.add(mean_per_class(correct, labels, 4))
    assert len({sum(count / 10 for count in order) for order in itertools.permutations(right)}) > 1
    assert found == {0.325}
