"""Learning rate, weight decay, teacher momentum and temperature as functions of the step.

Every function maps a step (or epoch), counted from 0, to a number and has no state, so there is nothing to resume. The
cosine schedules never reach their end value: the last step is one short of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pretrain.optim import Optim


def scaled_learning_rate(base: float, global_batch: int) -> float:
    """The peak learning rate under the linear scaling rule, base x global batch / 256.

    Source: dino main_dino.py:239.
    """
    return base * global_batch / 256.0


def cosine(step: int, *, start: float, end: float, total_steps: int) -> float:
    """Half a cosine from `start` at step 0 towards `end` at step `total_steps` (weight decay, teacher momentum).

    Raises: ValueError: step outside [0, total_steps).
    Source: dino utils.py:187-198; weight decay 0.04 -> 0.4, momentum 0.996 -> 1.
    """
    _within(step, total_steps)
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * step / total_steps))


def learning_rate(
    step: int, *, peak: float, end: float, total_steps: int, warmup_steps: int, start: float = 0.0
) -> float:
    """Linear from `start` to `peak` over `warmup_steps` points, both ends included, then half a cosine towards `end`.

    With 20 warm-up steps, step 0 is at `start`, steps 19 and 20 both at `peak`. A single warm-up step is at `start`.

    Raises: ValueError: step outside [0, total_steps), or warmup_steps outside [0, total_steps].
    Source: dino utils.py:187-198 (np.linspace includes both ends).
    """
    _within(step, total_steps)
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"wanted warmup_steps in [0, {total_steps}], got {warmup_steps}: shorten the warm-up")
    if step < warmup_steps:
        return start + (peak - start) * step / max(1, warmup_steps - 1)
    return cosine(step - warmup_steps, start=peak, end=end, total_steps=total_steps - warmup_steps)


def teacher_temperature(epoch: int, *, start: float = 0.04, end: float = 0.07, warmup_epochs: int = 30) -> float:
    """The teacher's temperature in an epoch: `warmup_epochs` values from `start` to `end`, both included, then `end`.

    Raises: ValueError: a negative epoch, negative warmup_epochs, or a temperature <= 0.
    Source: dino main_dino.py:374-378; public runs 30 epochs (ViT-S) and 50 (ViT-B).
    """
    if start <= 0.0 or end <= 0.0:
        raise ValueError(f"wanted temperatures > 0, got start {start} and end {end}")
    if epoch < 0 or warmup_epochs < 0:
        raise ValueError(f"wanted epoch >= 0 and warmup_epochs >= 0, got {epoch} and {warmup_epochs}")
    if epoch >= warmup_epochs:
        return end
    return start + (end - start) * epoch / max(1, warmup_epochs - 1)


def msn_learning_rate(
    step: int,
    *,
    start: float,
    peak: float,
    end: float,
    total_steps: int,
    warmup_steps: int,
    stretch: float = 1.25,
) -> float:
    """MSN's learning rate: linear from `start` to `peak`, then half a cosine towards `end` over the stretched length.

    The original advances its schedule before the optimizer's step, so the first step has the value of step 1, and
    training stops at 1/stretch of the schedule, well above `end`.

    Args:
        step: training step from 0.
        start, peak, end: learning rates.
        total_steps: steps of the run.
        warmup_steps: steps of the linear part.
        stretch: length of the schedule relative to the run.

    Raises: ValueError: step outside [0, total_steps), warmup_steps outside [0, total_steps], or stretch < 1.
    Source: msn src/utils.py:67-101, src/msn_train.py:548-560 (T_max = 1.25 x epochs x iterations).
    """
    _within(step, total_steps)
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"wanted warmup_steps in [0, {total_steps}], got {warmup_steps}: shorten the warm-up")
    advanced = step + 1
    if advanced < warmup_steps:
        return start + (peak - start) * advanced / warmup_steps
    progress = (advanced - warmup_steps) / max(1, _stretched(total_steps, stretch) - warmup_steps)
    return end + (peak - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def msn_weight_decay(step: int, *, start: float, end: float, total_steps: int, stretch: float = 1.25) -> float:
    """MSN's weight decay: half a cosine from `start` towards `end` over the stretched length, advanced before the step.

    Raises: ValueError: step outside [0, total_steps), or stretch < 1.
    Source: msn src/utils.py:104-132; 0.04 -> 0.4, which ends at 0.3656.
    """
    _within(step, total_steps)
    progress = (step + 1) / _stretched(total_steps, stretch)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def stretched_linear(step: int, *, start: float, end: float, total_steps: int, stretch: float = 1.25) -> float:
    """A straight line from `start` at step 0 towards `end` at `stretch` x total_steps (MSN's momentum and sharpening).

    Raises: ValueError: step outside [0, total_steps), or stretch < 1.
    Source: msn src/msn_train.py:253-259; momentum 0.996 -> 1, which ends at 0.9992, and sharpening 0.25 -> 0.25.
    """
    _within(step, total_steps)
    _stretched(total_steps, stretch)
    return start + (end - start) * step / (total_steps * stretch)


def _within(step: int, total_steps: int) -> None:
    if not 0 <= step < total_steps:
        raise ValueError(f"wanted a step in [0, {total_steps}), got {step}")


def _stretched(total_steps: int, stretch: float) -> int:
    if stretch < 1.0:
        raise ValueError(f"wanted stretch >= 1, got {stretch}: a schedule may not end before the run")
    return int(stretch * total_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the schedules give for one step; momentum is the teacher's."""

    lr: float
    weight_decay: float
    momentum: float


def dino_rates(optim: Optim, step: int, *, total_steps: int, epoch_steps: int) -> Rates:
    """DINO's and iBOT's schedules at a step. Source: dino main_dino.py:237-253."""
    return Rates(
        lr=learning_rate(
            step,
            peak=_peak(optim),
            end=optim.min_lr,
            total_steps=total_steps,
            warmup_steps=round(optim.warmup_epochs * epoch_steps),
            start=optim.start_lr,
        ),
        weight_decay=cosine(step, start=optim.weight_decay, end=optim.weight_decay_end, total_steps=total_steps),
        momentum=cosine(step, start=optim.momentum, end=optim.momentum_end, total_steps=total_steps),
    )


def msn_rates(optim: Optim, step: int, *, total_steps: int, epoch_steps: int) -> Rates:
    """MSN's schedules at a step, stretched beyond the end of the run. Source: msn src/msn_train.py:253-259, 548-560."""
    total, stretch = total_steps, optim.stretch
    decay, momentum = (optim.weight_decay, optim.weight_decay_end), (optim.momentum, optim.momentum_end)
    return Rates(
        lr=msn_learning_rate(
            step,
            start=optim.start_lr,
            peak=_peak(optim),
            end=optim.min_lr,
            total_steps=total,
            warmup_steps=round(optim.warmup_epochs * epoch_steps),
            stretch=stretch,
        ),
        weight_decay=msn_weight_decay(step, start=decay[0], end=decay[1], total_steps=total, stretch=stretch),
        momentum=stretched_linear(step, start=momentum[0], end=momentum[1], total_steps=total, stretch=stretch),
    )


def _peak(optim: Optim) -> float:
    return scaled_learning_rate(optim.lr, optim.batch) if optim.scale_lr else optim.lr
