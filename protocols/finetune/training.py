"""Fine-tune a net once per learning rate: evaluated after each epoch, resumable by epoch.

The state is written whole after each epoch. It holds no random stream: order, views, mixing and stochastic depth are
drawn from streams named by seed, epoch, step and group, so that a run that was killed ends in the bits of one that was
not (on a CPU), and several processes train on the same as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaltk import distributed, progress
from evaltk.data.images import Split
from evaltk.errors import DataError, SettingsError
from evaltk.features import sweep_cache
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
LATER = ("best_confidence", "last_confidence")  # of the outcome; missing in older entries of the cache
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that a fine-tuning depends on.

    Attributes:
        weights: of the net, left as they are. backbone: whose device, precision and rule of positions are used.
        views: what is trained on. test: what is reported on. held: held-out training images, or None.
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


@dataclass(slots=True, kw_only=True)
class State:
    """What changes while training with H rates over E epochs, scored on N images.

    Attributes:
        lr, epoch: number of the rate under way, and how many of its epochs are done.
        model, optimizer: their state dicts, {} before the first epoch of a rate.
        train_loss, test_score, held_score: [H, E] float64, NaN where there is none.
        diverged: [H], the epoch in which training with that rate diverged, or -1.
        best_lr, best_epoch: with the best test_score so far, or -1. best_rank, best_predicted: of that epoch [N].
        last_rank, last_predicted: after the last epoch [H, N], -1 where diverged or unreadable.
        best_confidence, last_confidence: softmax probabilities of the predicted classes, float32 as these, NaN there.
        bad: numbers of the images that could not be read so far.
    """

    lr: int = 0
    epoch: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    train_loss: Tensor
    test_score: Tensor
    held_score: Tensor
    diverged: Tensor
    best_lr: int = -1
    best_epoch: int = -1
    best_rank: Tensor
    best_predicted: Tensor
    last_rank: Tensor
    last_predicted: Tensor
    best_confidence: Tensor
    last_confidence: Tensor
    bad: set[int] = field(default_factory=set)

    @staticmethod
    def empty(num_rates: int, num_epochs: int, num_images: int) -> State:
        """The state before the first epoch."""

        def unknown() -> Tensor:
            return torch.full((num_rates, num_epochs), torch.nan, dtype=torch.float64)

        return State(
            train_loss=unknown(),
            test_score=unknown(),
            held_score=unknown(),
            diverged=torch.full((num_rates,), -1),
            best_rank=torch.full((num_images,), -1),
            best_predicted=torch.full((num_images,), -1),
            last_rank=torch.full((num_rates, num_images), -1),
            last_predicted=torch.full((num_rates, num_images), -1),
            best_confidence=torch.full((num_images,), torch.nan),
            last_confidence=torch.full((num_rates, num_images), torch.nan),
        )

    def outcome(self) -> dict[str, Tensor]:
        """The fields named in `OUTCOME` and `LATER`, as tensors."""
        numbers = {"best_lr": torch.tensor(self.best_lr), "best_epoch": torch.tensor(self.best_epoch)}
        bad = {"bad": torch.tensor(sorted(self.bad), dtype=torch.int64)}
        return {name: (numbers | bad).get(name, getattr(self, name)) for name in (*OUTCOME, *LATER)}

    def tree(self) -> dict[str, Any]:
        """All of it, to be saved."""
        under_way = {"lr": self.lr, "epoch": self.epoch, "model": self.model, "optimizer": self.optimizer}
        return under_way | self.outcome()

    def take(self, tree: Any) -> None:
        """Become what was saved. Raises: KeyError, TypeError, ValueError, AttributeError: it is something else."""
        there = (*OUTCOME, *(name for name in LATER if name in tree))
        for name, mine in self.outcome().items():
            if name in there and name != "bad" and tree[name].shape != mine.shape:
                raise ValueError("arrays of other sizes")
        for name in there:
            setattr(self, name, tree[name])
        self.best_lr, self.best_epoch, self.bad = int(tree["best_lr"]), int(tree["best_epoch"]), {*tree["bad"].tolist()}
        self.lr, self.epoch = int(tree["lr"]), int(tree["epoch"])
        self.model, self.optimizer = tree["model"], tree["optimizer"]


def tune(task: Task, store: Store) -> None:
    """Train once per learning rate; the fields `outcome` of the last `State` go into the store as arrays.

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
    start = state.lr * tuning.epochs + state.epoch
    total = len(tuning.lr) * tuning.epochs
    with progress.bar("fine-tuning", total, done=start, unit="epochs") as advance:
        while state.lr < len(tuning.lr):
            _train_with_rate(task, store, state, steps, advance)
            state.lr, state.epoch, state.model, state.optimizer = state.lr + 1, 0, {}, {}
    if state.best_lr < 0:
        lrs = ", ".join(f"{lr:g}" for lr in tuning.lr)
        do = "lower --finetune.lr"
        raise SettingsError(wanted="a loss that stays finite for an epoch", got="none", where=f"lr {lrs}", do=do)
    if distributed.is_main():
        store.write_arrays(sweep_cache.OUTCOME, {name: tensor.numpy() for name, tensor in state.outcome().items()})
    distributed.barrier()


def _begin(task: Task, store: Store) -> State:
    """The state before the first epoch, or that of an earlier run."""
    num_rates, num_epochs = len(task.tuning.lr), task.tuning.epochs
    state = State.empty(num_rates, num_epochs, len(task.test))
    tree = store.read_state()
    if tree is not None:
        with store.restoring():
            state.take(tree)
        message = "resuming fine-tuning at epoch %d/%d of learning rate %d/%d"
        log.info(message, state.epoch + 1, num_epochs, state.lr + 1, num_rates)
    mine = [state.lr, state.epoch]
    if (main := distributed.broadcast_object(mine)) != mine:
        do = "give all machines the same --cache"
        raise SettingsError(wanted=f"the state at {main} on every process", got=f"{mine}", where=store.state, do=do)
    return state


def _train_with_rate(task: Task, store: Store, state: State, steps: int, advance: progress.Advance) -> None:
    """All epochs with learning rate number `state.lr`, from epoch `state.epoch` on; changes the state."""
    tuning, h = task.tuning, state.lr
    rates = finetuning.learning_rates(tuning, tuning.lr[h], steps)
    model = finetuning.build(
        task.backbone.arch, task.weights, task.num_classes, tuning, position=task.backbone.position, seed=task.seed
    ).to(task.backbone.device)
    optimizer = torch.optim.AdamW(
        finetuning.parameter_groups(model, tuning), lr=0.0, betas=finetuning.BETAS, eps=finetuning.EPS
    )
    if state.model:
        with store.restoring():
            model.load_state_dict(state.model)
            optimizer.load_state_dict(dict(state.optimizer))
    for epoch in range(state.epoch, tuning.epochs):
        loss = _one_epoch(task, state, model, optimizer, rates[epoch * steps : (epoch + 1) * steps], epoch)
        if not math.isfinite(loss):
            log.warning("fine-tuning: loss became non-finite (lr %g, epoch %d)", tuning.lr[h], epoch + 1)
            state.diverged[h] = epoch
            break
        state.train_loss[h, epoch] = loss
        _evaluate(task, model, state, epoch)
        state.epoch, state.model, state.optimizer = epoch + 1, model.state_dict(), optimizer.state_dict()
        if distributed.is_main():
            store.write_state(state.tree())
        distributed.barrier()
        advance(1)


def _one_epoch(
    task: Task, state: State, model: Classifier, optimizer: torch.optim.Optimizer, rates: np.ndarray, epoch: int
) -> float:
    """All steps of an epoch; the mean of their losses, NaN as soon as one is not finite."""
    device, share = task.backbone.device, task.tuning.group / task.tuning.batch
    mix, total = _mixing(task), 0.0
    model.train()
    with numerics(device, "fp32"):
        for step, groups in enumerate(task.views.epoch(epoch, state.bad)):
            for group in optimizer.param_groups:
                group["lr"] = float(rates[step]) * group["lr_scale"]
            optimizer.zero_grad()
            mean = torch.zeros((), dtype=torch.float64, device=device)
            for number, x, y in groups:
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
    trained = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    summed = distributed.all_reduce(flat).split([p.numel() for p in trained])
    for parameter, gradient in zip(trained, summed, strict=True):
        parameter.grad = gradient.view_as(parameter)


def _evaluate(task: Task, model: Classifier, state: State, epoch: int) -> None:
    """Scores after an epoch, and the predictions where it is the best so far or the last."""
    views, h = task.views, state.lr
    rank, predicted, confidence = classify(model, task.backbone, task.test, views.transform, views.how)
    score = _score(task, task.test, rank)
    # Of equal scores the first of the lowest learning rate stays.
    if not state.test_score.nan_to_num(-1).max() >= score - classification.EQUAL:
        state.best_lr, state.best_epoch, state.best_rank, state.best_predicted = h, epoch, rank, predicted
        state.best_confidence = confidence
    state.test_score[h, epoch] = score
    if task.held is not None:
        held, *_ = classify(model, task.backbone, task.held, views.transform, views.how)
        state.held_score[h, epoch] = _score(task, task.held, held)
    if epoch + 1 == task.tuning.epochs:
        state.last_rank[h], state.last_predicted[h], state.last_confidence[h] = rank, predicted, confidence


def _score(task: Task, split: Split, rank: Tensor) -> float:
    readable = rank >= 0
    labels = torch.from_numpy(split.labels)[readable]
    if task.metric == "mean_per_class":
        return classification.mean_per_class(rank[readable] == 0, labels, task.num_classes)
    return classification.top_accuracy(rank[readable], 1)
