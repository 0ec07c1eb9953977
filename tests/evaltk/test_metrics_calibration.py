"""Calibration error, accuracy by class and confused pairs, against the formulas, torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from evaltk.errors import DataError
from evaltk.metrics.calibration import by_class, reliability, worst_pairs

RNG = np.random.default_rng(7)
LOGITS = RNG.normal(size=(500, 6)) * 2
TARGET = np.where(RNG.random(500) < 0.6, LOGITS.argmax(1), RNG.integers(0, 6, 500))
P = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
PREDICTED = P.argmax(1)


# torchmetrics 1.9.0, multiclass_calibration_error(P, TARGET, 6, n_bins=bins, norm="l1")
@pytest.mark.parametrize(("bins", "torchmetrics"), [(15, 0.1752527356147766), (10, 0.16913503408432007)])
def test_calibration_error(bins: int, torchmetrics: float) -> None:
    found = reliability(P.max(1), PREDICTED == TARGET, bins)
    slow = 0.0
    for b in range(bins):
        inside = [(c, r) for c, r in zip(P.max(1), PREDICTED == TARGET, strict=True) if b / bins < c <= (b + 1) / bins]
        assert found.count[b] == len(inside)
        if inside:
            confidence, accuracy = np.mean([c for c, _ in inside]), np.mean([r for _, r in inside])
            assert found.confidence[b] == pytest.approx(confidence) and found.accuracy[b] == pytest.approx(accuracy)
            slow += len(inside) / 500 * abs(accuracy - confidence)
        else:
            assert np.isnan(found.accuracy[b])
    assert found.ece == pytest.approx(slow) == pytest.approx(torchmetrics, abs=1e-6)


def test_edges_of_confidence() -> None:
    found = reliability(np.array([0.0, 1.0]), np.array([False, True]))
    assert found.ece == 0 and found.count[0] == found.count[-1] == 1
    for wrong in ([1.2], [np.nan], [-0.1], []):
        with pytest.raises(DataError, match="confidence in"):
            reliability(np.array(wrong), np.ones(len(wrong), bool))


def test_classes_and_pairs() -> None:
    count, accuracy = by_class(TARGET, PREDICTED, 7)
    np.testing.assert_allclose(accuracy[:6], recall_score(TARGET, PREDICTED, average=None))
    assert np.isnan(accuracy[6]) and count.sum() == 500 and count[6] == 0
    matrix = confusion_matrix(TARGET, PREDICTED)
    off = [(i, j) for i in range(6) for j in range(6) if i != j]
    wrong = sorted((-matrix[i, j], -matrix[i, j] / matrix[i].sum(), i, j) for i, j in off)[:5]
    found = worst_pairs(TARGET, PREDICTED, 5)
    assert [(f.label, f.predicted, f.count) for f in found] == [(i, j, -n) for n, _, i, j in wrong]
    assert [f.share for f in found] == pytest.approx([-s for _, s, _, _ in wrong])
    assert worst_pairs(TARGET, TARGET) == ()
