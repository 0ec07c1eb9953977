"""Fine-tuning a net once for each learning rate: judged after each epoch, resumable by epoch.

The state is written whole after each epoch. It holds no random stream: order, views, mixing and stochastic depth are
drawn from streams named by seed, epoch, step and group, so that a run that was killed ends in the bits of one that was
not (on a CPU), and several processes learn from the same as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaltk import distributed, progress
from evaltk.data.images import Split
from evaltk.errors import DataError, SettingsError
from evaltk.features.sweep_cache import Store
from evaltk.metrics import classification
from evaltk.models.backbone import Backbone, numerics
from evaltk.progress import log
from evaltk.seeding import derive, seeded
from protocols.finetune import recipe as finetuning
from protocols.finetune.batches import Views
from protocols.finetune.evaluation import classify
from protocols.finetune.recipe import Classifier, Tuning

OUTCOME = (
    "train_loss", "test_score", "held_score", "diverged", "best_lr", "best_epoch", "best_rank", "best_predicted",
    "last_rank", "last_predicted", "bad",
)  # fmt: skip
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that a fine-tuning is of.

    Attributes:
        weights: of the net, left as they are. backbone: whose device, precision and rule of positions are used.
        views: what is learnt from. test: what is reported on. held: training images kept apart, or None.
        metric: what epochs and learning rates are compared by.
    """

    weights: Mapping[str, Tensor]
    backbone: Backbone
    num_classes: int
    tuning: Tuning
    views: Views
    test: Split
    held: Split | None
    metric: Literal["top1", "mean_per_class"]
    seed: int


def tune(task: Task, store: Store) -> None:
    """Train once for each learning rate; the outcome goes into the store as the arrays `OUTCOME`.

    For H rates, E epochs and N images: train_loss, test_score, held_score [H, E] float64, NaN where there is none;
    diverged [H], the epoch or -1; best_*: of the epoch and rate with the best test_score, ranks and predictions [N];
    last_*: after the last epoch [H, N], -1 where diverged. Ranks and predictions of unreadable images are -1.

    Raises: DataError: unreadable images, too few for one batch. StorageError: a full disk, a damaged state.
        SettingsError: processes that do not see the same cache, training that diverged with every rate.
    """
    tuning = task.tuning
    steps = finetuning.steps_of(len(task.views.rows), tuning)
    if not steps:
        where = f"{task.views.split.dataset} {task.views.split.name}"
        do = "set --finetune.batch and --finetune.group lower"
        got = f"{len(task.views.rows)} images"
        raise DataError(wanted=f"images for one batch of {tuning.batch}", got=got, where=where, do=do)
    state = _begin(task, store)
    start = state["lr"] * tuning.epochs + state["epoch"]
    total = len(tuning.lr) * tuning.epochs
    with progress.bar(f"fine-tuning, {total} epochs", total, done=start, unit="epochs") as advance:
        for h in range(state["lr"], len(tuning.lr)):
            _one(task, store, state, h, steps, advance)
            state |= {"lr": h + 1, "epoch": 0, "model": {}, "optimizer": {}}
    if int(state["best_lr"]) < 0:
        lrs = ", ".join(f"{lr:g}" for lr in tuning.lr)
        do = "lower --finetune.lr"
        raise SettingsError(wanted="a loss that stays finite for an epoch", got="none", where=f"lr {lrs}", do=do)
    if distributed.is_main():
        state["bad"] = torch.tensor(sorted(task.views.bad), dtype=torch.int64)
        store.write_arrays({name: state[name].numpy() for name in OUTCOME})
    distributed.barrier()


def _begin(task: Task, store: Store) -> dict[str, Any]:
    """The state before the first epoch, or that of an earlier run."""
    h, e, n = len(task.tuning.lr), task.tuning.epochs, len(task.test)
    nan = torch.full((h, e), torch.nan, dtype=torch.float64)
    state: dict[str, Any] = {"lr": 0, "epoch": 0, "model": {}, "optimizer": {}}
    state |= {name: nan.clone() for name in ("train_loss", "test_score", "held_score")}
    state |= {"diverged": torch.full((h,), -1), "best_lr": torch.tensor(-1), "best_epoch": torch.tensor(-1)}
    state |= {f"best_{name}": torch.full((n,), -1) for name in ("rank", "predicted")}
    state |= {f"last_{name}": torch.full((h, n), -1) for name in ("rank", "predicted")}
    state["bad"] = torch.zeros(0, dtype=torch.int64)
    tree = store.read_state()
    if tree is not None:
        try:
            if any(tree[k].shape != v.shape for k, v in state.items() if isinstance(v, Tensor) and k != "bad"):
                raise ValueError("arrays of other sizes")
            state = {name: tree[name] for name in state}
            task.views.bad.update(state["bad"].tolist())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise store.damaged(f"{type(error).__name__}: {error}") from error
        told = "fine-tuning: goes on after epoch %d of %d with learning rate %d of %d"
        log.info(told, state["epoch"], e, state["lr"] + 1, h)
    mine = [state["lr"], state["epoch"]]
    if (main := distributed.broadcast_object(mine)) != mine:
        do = "give all machines the same --cache"
        raise SettingsError(wanted=f"the state at {main} on every process", got=f"{mine}", where=store.state, do=do)
    return state


def _one(task: Task, store: Store, state: dict[str, Any], h: int, steps: int, advance: progress.Advance) -> None:
    """All epochs with one learning rate, from where the state says; the state is changed in place."""
    tuning, device = task.tuning, task.backbone.device
    rates = finetuning.learning_rates(tuning, tuning.lr[h], steps)
    model = finetuning.build(
        task.backbone.arch, task.weights, task.num_classes, tuning, position=task.backbone.position, seed=task.seed
    ).to(device)
    optimizer = torch.optim.AdamW(
        finetuning.parameter_groups(model, tuning), lr=0.0, betas=finetuning.BETAS, eps=finetuning.EPS
    )
    if state["model"]:
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise store.damaged(f"{type(error).__name__}: {error}") from error
    for epoch in range(state["epoch"], tuning.epochs):
        loss = _one_epoch(task, model, optimizer, rates[epoch * steps : (epoch + 1) * steps], epoch)
        if not math.isfinite(loss):
            log.warning("fine-tuning: the loss is no number any more with lr %g, epoch %d", tuning.lr[h], epoch + 1)
            state["diverged"][h] = epoch
            break
        state["train_loss"][h, epoch] = loss
        _judge(task, model, state, h, epoch)
        state |= {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state["bad"] = torch.tensor(sorted(task.views.bad), dtype=torch.int64)
        if distributed.is_main():
            store.write_state(state)
        distributed.barrier()
        advance(1)


def _one_epoch(task: Task, model: Classifier, optimizer: torch.optim.Optimizer, rates: np.ndarray, epoch: int) -> float:
    """All steps of an epoch; the mean of their losses, NaN as soon as one is not finite."""
    device, share = task.backbone.device, task.tuning.group / task.tuning.batch
    mix, total = _mixing(task), 0.0
    model.train()
    with numerics(device, "fp32"):
        for step, found in enumerate(task.views.epoch(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = float(rates[step]) * group["lr_scale"]
            optimizer.zero_grad()
            mean = torch.zeros((), dtype=torch.float64, device=device)
            for number, x, y in found:
                loss = share * _loss(task, model, mix, x, y, (epoch, step, number))
                loss.backward()  # type: ignore[no-untyped-call]
                mean += loss.detach()
            _sum_gradients(model)
            now = float(distributed.all_reduce(mean))
            if not math.isfinite(now):
                return math.nan
            optimizer.step()
            total += now
    return total / len(rates)


def _loss(
    task: Task, model: Classifier, mix: Mixing | None, x: Tensor, y: Tensor, place: tuple[int, int, int]
) -> Tensor:
    """Cross-entropy of a group with mixed and smoothed labels."""
    device = task.backbone.device
    x, y = x.to(device, non_blocking=True), y.to(device)
    if mix is None:
        target = finetuning.soft_target(y, task.num_classes, task.tuning.smoothing)
    else:
        with seeded(derive(task.seed, "finetune", "mix", *place)):
            x, target = mix(x, y)
    with seeded(derive(task.seed, "finetune", "depth", *place), device), numerics(device, task.backbone.precision):
        logits = model(x)
    return -(target * F.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()


def _mixing(task: Task) -> Mixing | None:
    """timm's mixup and cutmix, one of them for a whole group, each half of the time; None where both are off."""
    from timm.data import Mixup

    tuning = task.tuning
    if not (tuning.mixup or tuning.cutmix):
        return None
    made: Mixing = Mixup(
        mixup_alpha=tuning.mixup, cutmix_alpha=tuning.cutmix, label_smoothing=tuning.smoothing,
        num_classes=task.num_classes,
    )  # fmt: skip
    return made


def _sum_gradients(model: Classifier) -> None:
    """The gradients of all processes' groups, summed, on every process."""
    if not distributed.active():
        return
    learnt = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learnt])
    summed = distributed.all_reduce(flat).split([p.numel() for p in learnt])
    for parameter, gradient in zip(learnt, summed, strict=True):
        parameter.grad = gradient.view_as(parameter)


def _judge(task: Task, model: Classifier, state: dict[str, Any], h: int, epoch: int) -> None:
    """Scores after an epoch, and the predictions where it is the best so far or the last."""
    views = task.views
    rank, predicted = classify(model, task.backbone, task.test, views.transform, views.how)
    score = _score(task, task.test, rank)
    # Of equal scores the first of the lowest learning rate stays.
    if not state["test_score"].nan_to_num(-1).max() >= score - classification.EQUAL:
        state |= {"best_lr": torch.tensor(h), "best_epoch": torch.tensor(epoch)}
        state |= {"best_rank": rank, "best_predicted": predicted}
    state["test_score"][h, epoch] = score
    if task.held is not None:
        held, _ = classify(model, task.backbone, task.held, views.transform, views.how)
        state["held_score"][h, epoch] = _score(task, task.held, held)
    if epoch + 1 == task.tuning.epochs:
        state["last_rank"][h], state["last_predicted"][h] = rank, predicted


def _score(task: Task, split: Split, rank: Tensor) -> float:
    there = rank >= 0
    labels = torch.from_numpy(split.labels)[there]
    if task.metric == "mean_per_class":
        return classification.mean_per_class(rank[there] == 0, labels, task.num_classes)
    return classification.top_accuracy(rank[there], 1)
