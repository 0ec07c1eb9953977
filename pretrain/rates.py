"""What the schedules say at a step of a run: learning rate, weight decay, the teacher's momentum."""

from __future__ import annotations

from pretrain import schedules
from pretrain.recipe import Recipe


def rates_at(recipe: Recipe, step: int, total: int, steps_per_epoch: int) -> dict[str, float]:
    """lr, weight_decay and the teacher's momentum at a step (dino/main_dino.py:237-253; MSN stretches them)."""
    o = recipe.optim
    peak = schedules.scaled_learning_rate(o.lr, o.batch) if o.scale_lr else o.lr
    warmup = round(o.warmup_epochs * steps_per_epoch)
    if recipe.method.name == "msn":
        return {
            "lr": schedules.msn_learning_rate(
                step,
                start=o.start_lr,
                peak=peak,
                end=o.min_lr,
                total_steps=total,
                warmup_steps=warmup,
                stretch=o.stretch,
            ),
            "weight_decay": schedules.msn_weight_decay(
                step, start=o.weight_decay, end=o.weight_decay_end, total_steps=total, stretch=o.stretch
            ),
            "momentum": schedules.stretched_linear(
                step, start=o.momentum, end=o.momentum_end, total_steps=total, stretch=o.stretch
            ),
        }
    return {
        "lr": schedules.learning_rate(
            step, peak=peak, end=o.min_lr, total_steps=total, warmup_steps=warmup, start=o.start_lr
        ),
        "weight_decay": schedules.cosine(step, start=o.weight_decay, end=o.weight_decay_end, total_steps=total),
        "momentum": schedules.cosine(step, start=o.momentum, end=o.momentum_end, total_steps=total),
    }
