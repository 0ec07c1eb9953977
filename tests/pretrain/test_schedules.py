"""Schedules against np.linspace, hand values, and values printed by the original code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pretrain import schedules

LR = {"peak": 2e-3, "end": 1e-5, "total_steps": 100, "warmup_steps": 20}


def test_learning_rate_of_ten_epochs_of_ten_steps() -> None:
    wanted = {0: 0.0, 1: 1.052632e-4, 19: 2e-3, 20: 2e-3, 60: 1.005e-3, 99: 1.076711e-5}
    for step, value in wanted.items():
        assert schedules.learning_rate(step, **LR) == pytest.approx(value, rel=1e-6, abs=1e-12)
    warmup = [schedules.learning_rate(step, **LR) for step in range(20)]
    np.testing.assert_allclose(warmup, np.linspace(0, 2e-3, 20), rtol=1e-12)


def test_learning_rate_without_and_with_one_step_of_warmup() -> None:
    assert schedules.learning_rate(0, peak=1.0, end=0.0, total_steps=10, warmup_steps=0) == 1.0
    assert schedules.learning_rate(0, peak=1.0, end=0.0, total_steps=10, warmup_steps=1) == 0.0
    assert schedules.learning_rate(1, peak=1.0, end=0.0, total_steps=10, warmup_steps=1) == 1.0
    assert schedules.learning_rate(9, peak=1.0, end=0.0, total_steps=10, warmup_steps=10) == 1.0


def test_momentum_and_weight_decay() -> None:
    momentum = [schedules.cosine(s, start=0.996, end=1.0, total_steps=100) for s in (0, 50, 99)]
    np.testing.assert_allclose(momentum, [0.996, 0.998, 0.9999990], atol=5e-8)
    decay = [schedules.cosine(s, start=0.04, end=0.4, total_steps=100) for s in (0, 50, 99)]
    np.testing.assert_allclose(decay, [0.04, 0.22, 0.399911], atol=5e-7)


@pytest.mark.parametrize("warmup", [1, 2, 30, 50])
def test_teacher_temperature_is_an_inclusive_linspace(warmup: int) -> None:
    wanted = [*np.linspace(0.04, 0.07, warmup), 0.07, 0.07]
    got = [schedules.teacher_temperature(e, warmup_epochs=warmup) for e in range(warmup + 2)]
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_teacher_temperature_without_warmup() -> None:
    assert schedules.teacher_temperature(0, warmup_epochs=0) == 0.07


def test_msn_against_the_original() -> None:
    # Printed by WarmupCosineSchedule and CosineWDSchedule of facebookresearch/msn 4388dc1 (src/utils.py): 8 epochs of
    # 10 steps, 2 warm-up epochs, T_max = 100; row i is what the (i + 1)-th call of step() returned.
    printed = {
        0: (0.00024, 0.040088819134168285),
        1: (0.00028, 0.04035518888291112),
        18: (0.00096, 0.07112549663057888),
        19: (0.001, 0.07437694101250947),
        20: (0.0009996149036022412, 0.0777720977723757),
        50: (0.0006733854700102078, 0.2256539366340631),
        79: (0.00014730016279731955, 0.36562305898749053),
    }
    for step, (lr, wd) in printed.items():
        got = schedules.msn_learning_rate(step, start=2e-4, peak=1e-3, end=1e-6, total_steps=80, warmup_steps=20)
        assert got == pytest.approx(lr, rel=1e-12)
        assert schedules.msn_weight_decay(step, start=0.04, end=0.4, total_steps=80) == pytest.approx(wd, rel=1e-12)


def test_msn_momentum_ends_at_four_fifths() -> None:
    total = 250_000
    assert schedules.stretched_linear(0, start=0.996, end=1.0, total_steps=total) == 0.996
    assert schedules.stretched_linear(total - 1, start=0.996, end=1.0, total_steps=total) == pytest.approx(
        0.9992, abs=1e-7
    )
    assert schedules.stretched_linear(total // 2, start=0.25, end=0.25, total_steps=total) == 0.25


def test_scaled_learning_rate() -> None:
    assert schedules.scaled_learning_rate(5e-4, 1024) == pytest.approx(2e-3)
    assert schedules.scaled_learning_rate(7.5e-4, 512) == pytest.approx(1.5e-3)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"step in \[0, 100\), got 100"):
        schedules.learning_rate(100, **LR)
    with pytest.raises(ValueError, match="got -1"):
        schedules.cosine(-1, start=0.0, end=1.0, total_steps=10)
    with pytest.raises(ValueError, match="warmup_steps"):
        schedules.learning_rate(0, peak=1.0, end=0.0, total_steps=10, warmup_steps=11)
    with pytest.raises(ValueError, match="temperatures > 0"):
        schedules.teacher_temperature(0, start=0.0)
    with pytest.raises(ValueError, match="stretch"):
        schedules.msn_weight_decay(0, start=0.04, end=0.4, total_steps=10, stretch=0.8)
    assert math.isfinite(schedules.msn_weight_decay(0, start=0.04, end=0.4, total_steps=1))
