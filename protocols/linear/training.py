"""Train all heads of a sweep on one pass over the data per epoch: evaluated after each epoch, resumable by epoch.

The state is written whole after each epoch. There is no random stream in it: order and crops are drawn from streams
named by seed, epoch and image, so that a run that was killed ends in the bits of one that was not (on a CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from evaltk import distributed, progress
from evaltk.errors import DataError, SettingsError
from evaltk.features.checks import check_finite
from evaltk.features.sweep_cache import OUTCOME, Store
from evaltk.progress import log
from evaltk.seeding import generator
from evaltk.types import Features, Recipe
from protocols.linear import heads as probe
from protocols.linear import pieces
from protocols.linear.batches import Batch
from protocols.linear.heads import LinearClassifiers

HISTORY = ("train_loss", "held_correct", "held_loss", "test_correct")
LATER = ("best_confidence", "chosen_confidence")  # missing in older entries of the cache


class Source(Protocol):
    """What is trained on, see `protocols.linear.batches`; `skipped`: numbers of images known to be unreadable."""

    @property
    def skipped(self) -> frozenset[int]: ...
    def __len__(self) -> int: ...
    def epoch(self, epoch: int, unreadable: set[int]) -> Iterator[Batch]: ...
    def name(self, index: int) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Heads to train: one per recipe and learning rate.

    Attributes:
        recipes: F features. lrs: H base learning rates, rising. batch: images per step, over all processes.
    """

    recipes: tuple[Recipe, ...]
    lrs: tuple[float, ...]
    num_classes: int
    epochs: int
    batch: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """The outcome of a sweep of F features x H learning rates over E epochs, evaluated on N reported images.

    Attributes:
        history: of `HISTORY`, [E, F, H] float64, NaN from the epoch on in which a head diverged.
        diverged: [F, H] int64, that epoch, -1 where there is none.
        best_epoch, best_head: [F], where most reported images were right. best_rank, best_predicted: [F, N].
        chosen_head: [F], best on the held-out images after the last epoch, -1 where none were held out or all heads
            diverged. chosen_rank, chosen_predicted: [F, N], of the last epoch.
        best_confidence, chosen_confidence: softmax probability of the predicted class, float32 [F, N]; NaN where there
            is none, as in trainings cached before these were kept.
        skipped: number of images that could not be read, int64 [].
    """

    history: Mapping[str, np.ndarray]
    diverged: np.ndarray
    best_epoch: np.ndarray
    best_head: np.ndarray
    best_rank: np.ndarray
    best_predicted: np.ndarray
    best_confidence: np.ndarray
    chosen_head: np.ndarray
    chosen_rank: np.ndarray
    chosen_predicted: np.ndarray
    chosen_confidence: np.ndarray
    skipped: np.ndarray

    def write(self, store: Store) -> None:
        """Write it into the cache; the state of the training goes. Raises: StorageError."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "history"}
        store.write_arrays(OUTCOME, arrays | dict(self.history))

    @staticmethod
    def read(store: Store) -> Trained:
        """What `write` has written. Raises: StorageError: the entry is damaged."""
        names = (*HISTORY, *(f.name for f in fields(Trained) if f.name not in ("history", *LATER)))
        arrays = store.read_arrays(OUTCOME, names, LATER)
        for name in LATER:
            arrays.setdefault(name, np.full(arrays["best_rank"].shape, np.nan, np.float32))
        return Trained(history={name: arrays.pop(name) for name in HISTORY}, **arrays)


@dataclass(slots=True, kw_only=True)
class _State:
    """What changes while training: heads of each recipe, epochs done, what was measured after each; `bad`: numbers of
    the images that could not be read so far."""

    heads: list[LinearClassifiers]
    history: dict[str, Tensor]
    diverged: Tensor
    best: dict[str, Tensor]
    bad: set[int]
    epoch: int = 0

    def tree(self) -> dict[str, Any]:
        """All of it, to be saved."""
        heads = [[t.cpu() for t in h.tensors()] for h in self.heads]
        seen = {"history": self.history, "diverged": self.diverged, "best": self.best, "bad": sorted(self.bad)}
        return {"epoch": self.epoch, "heads": heads} | seen

    def take(self, tree: Any) -> None:
        """Become what was saved. Raises: KeyError, TypeError, ValueError, RuntimeError: it is something else."""
        for heads, saved in zip(self.heads, tree["heads"], strict=True):
            for mine, theirs in zip(heads.tensors(), saved, strict=True):
                mine.copy_(theirs)
        best = {"confidence": self.best["confidence"]} | tree["best"]  # older states have no confidences
        for named, other in ((self.history, tree["history"]), (self.best, best)):
            for name, tensor in named.items():
                tensor.copy_(other[name])
        self.diverged.copy_(tree["diverged"])
        self.bad.update(map(int, tree["bad"]))
        self.epoch = int(tree["epoch"])


def train(
    sweep: Sweep,
    source: Source,
    reported: Sequence[Features],
    held: Sequence[Features],
    *,
    store: Store,
    device: torch.device | str,
) -> None:
    """Train from where the last run stopped, and write the outcome. Every process calls this; the main one has heads.

    Args:
        reported: features of the reported split, one for each recipe. held: of the held-out images, () for none.

    Raises: DataError: features that are not finite (the image is named), unreadable images. StorageError: no room.
        SettingsError: every head of a recipe diverged in the first epoch.
    """
    state = _begin(sweep, source, [f.x.shape[1] for f in reported], len(reported[0].y), device)
    if distributed.is_main() and (tree := store.read_state()) is not None:
        with store.restoring():
            state.take(tree)
        log.info("resuming linear probe at epoch %d/%d", state.epoch + 1, sweep.epochs)
    start = distributed.broadcast_object(state.epoch)
    assert isinstance(start, int)
    each = len(source)
    with progress.bar(f"linear, {sweep.epochs} epochs:", sweep.epochs * each, done=start * each) as advance:
        for epoch in range(start, sweep.epochs):
            losses = _one_epoch(state, sweep, source, epoch, advance)
            if distributed.is_main():
                with pieces.threads(state.heads, sweep.batch):
                    _evaluate(state, sweep, losses, reported, held)
                store.write_state(state.tree())
    if distributed.is_main():
        _outcome(state, sweep, reported, held).write(store)
    distributed.barrier()


def pace(
    sweep: Sweep, source: Source, reported: Sequence[Features], *, device: torch.device | str
) -> tuple[float, float]:
    """Seconds of a step, and of evaluating an image, with all heads; both of the second of two epochs."""
    state = _begin(sweep, source, [f.x.shape[1] for f in reported], len(reported[0].y), device)
    for epoch in range(2):
        started = time.perf_counter()
        losses = _one_epoch(state, sweep, source, epoch, lambda count: None)
        trained = time.perf_counter()
        with pieces.threads(state.heads, sweep.batch):
            _evaluate(state, sweep, losses, reported, ())
    evaluated = time.perf_counter() - trained
    return (trained - started) / math.ceil(len(source) / sweep.batch), evaluated / len(reported[0].y)


def _begin(
    sweep: Sweep, source: Source, widths: Sequence[int], num_reported: int, device: torch.device | str
) -> _State:
    num_recipes, num_lrs = len(sweep.recipes), len(sweep.lrs)
    heads = []
    if distributed.is_main():
        for recipe, width in zip(sweep.recipes, widths, strict=True):
            drawn = generator(sweep.seed, "probe", "weights", recipe.text())
            heads.append(probe.begin(num_lrs, sweep.num_classes, width, generator=drawn, device=device))
    shape = (sweep.epochs, num_recipes, num_lrs)
    numbers = {name: torch.full((num_recipes,), -1, dtype=torch.int64) for name in ("correct", "epoch", "head")}
    images = {name: torch.zeros(num_recipes, num_reported, dtype=torch.int64) for name in ("rank", "predicted")}
    images["confidence"] = torch.full((num_recipes, num_reported), torch.nan)
    return _State(
        heads=heads,
        history={name: torch.full(shape, torch.nan, dtype=torch.float64) for name in HISTORY},
        diverged=torch.full(shape[1:], -1, dtype=torch.int64),
        best=numbers | images,
        bad=set(source.skipped),
    )


def _one_epoch(state: _State, sweep: Sweep, source: Source, epoch: int, advance: progress.Advance) -> Tensor:
    """All steps of an epoch; the mean training loss of each head [F, H] float64 (of none where there are no heads)."""
    base = torch.tensor(probe.rates(sweep.lrs, sweep.batch, epoch, sweep.epochs), dtype=torch.float64)
    lrs, sums = [], []
    for f, heads in enumerate(state.heads):
        lrs.append(base.masked_fill(state.diverged[f] >= 0, 0).to(heads.weight))
        sums.append(torch.zeros(len(sweep.lrs), dtype=torch.float64, device=heads.weight.device))
    seen = 0
    for group in pieces.groups(source.epoch(epoch, state.bad), state.heads, sweep.batch):

        def work(piece: pieces.Piece, group: list[Batch] = group) -> None:
            f, which = piece
            heads, lr, total = pieces.some(state.heads[f], which), lrs[f][which], sums[f][which]
            for batch in group:
                if which.start == 0:
                    check_finite(batch.x[f], partial(_image, source, batch))
                total += probe.step(heads, batch.x[f], batch.y, lr).double() * len(batch.y)

        pieces.each(work, state.heads, sweep.batch)
        for batch in group if not state.heads else ():
            for x in batch.x:  # every process raises the same error
                check_finite(x, partial(_image, source, batch))
        images = sum(len(batch.y) for batch in group)
        seen += images
        advance(images)
    if not seen and distributed.is_main():
        raise DataError(wanted="readable training images", got="none", where="linear", do="restore them")
    return torch.stack([s.cpu() for s in sums]) / seen if sums else torch.empty(0)


def _image(source: Source, batch: Batch, row: int) -> str:
    return f"image {source.name(int(batch.index[row]))}"


def _evaluate(
    state: _State, sweep: Sweep, losses: Tensor, reported: Sequence[Features], held: Sequence[Features]
) -> None:
    """Evaluate all heads after an epoch; diverged heads are zeroed and excluded."""
    epoch = state.epoch
    living = []
    for f, heads in enumerate(state.heads):
        alive = probe.finite(heads).cpu() & torch.isfinite(losses[f]) & (state.diverged[f] < 0)
        state.diverged[f][~alive & (state.diverged[f] < 0)] = epoch
        probe.deactivate(heads, (~alive).to(heads.weight.device))
        living.append(alive)
    tested, on_held = (pieces.measure(state.heads, some) if some else [] for some in (reported, held))
    for f, (heads, alive) in enumerate(zip(state.heads, living, strict=True)):
        y = torch.from_numpy(reported[f].y)
        seen = {"train_loss": losses[f], "test_correct": tested[f][0]}
        if held:
            seen["held_correct"], seen["held_loss"] = on_held[f]
        for name, values in seen.items():
            state.history[name][epoch, f] = values.double().masked_fill(~alive, torch.nan)
        correct = seen["test_correct"].masked_fill(~alive, -1)
        head = int(correct.argmax())  # of equals the one of the smallest learning rate
        if correct[head] > state.best["correct"][f]:
            rank, predicted, confidence = probe.classify(heads, head, reported[f].x, y)
            now = {"correct": correct[head], "epoch": epoch, "head": head}
            now |= {"rank": rank, "predicted": predicted, "confidence": confidence}
            for name, value in now.items():
                state.best[name][f] = value
        elif state.best["correct"][f] < 0:
            raise SettingsError(
                wanted="a learning rate that does not diverge",
                got=f"none of {len(sweep.lrs)} in the first epoch",
                where=f"--linear.lr, on {sweep.recipes[f].text()}",
                do="name smaller ones",
            )
    state.epoch = epoch + 1


def _outcome(state: _State, sweep: Sweep, reported: Sequence[Features], held: Sequence[Features]) -> Trained:
    chosen = torch.full((len(sweep.recipes),), -1, dtype=torch.int64)
    rank, predicted = torch.zeros_like(state.best["rank"]), torch.zeros_like(state.best["predicted"])
    confidence = torch.full_like(state.best["confidence"], torch.nan)
    for f, heads in enumerate(state.heads):
        alive = [h for h in range(len(sweep.lrs)) if state.diverged[f, h] < 0]
        if held and alive:
            correct, loss = (state.history[name][-1, f][alive].tolist() for name in ("held_correct", "held_loss"))
            chosen[f] = alive[probe.choose(correct, loss)]  # of equals the one of the smallest learning rate
            y = torch.from_numpy(reported[f].y)
            rank[f], predicted[f], confidence[f] = probe.classify(heads, int(chosen[f]), reported[f].x, y)
    return Trained(
        history={name: tensor.numpy() for name, tensor in state.history.items()},
        diverged=state.diverged.numpy(),
        **{f"best_{name}": tensor.numpy() for name, tensor in state.best.items() if name != "correct"},
        chosen_head=chosen.numpy(),
        chosen_rank=rank.numpy(),
        chosen_predicted=predicted.numpy(),
        chosen_confidence=confidence.numpy(),
        skipped=torch.tensor(len(state.bad)).numpy(),
    )
