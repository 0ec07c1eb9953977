"""Out of memory in a training step: how many images at a time do fit, tried out, so that the message can say it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from evaltk import distributed
from evaltk.errors import SettingsError
from pretrain import card
from pretrain.data import loader
from pretrain.method import Method
from pretrain.recipe import Recipe
from pretrain.state import State


@contextmanager
def enough_memory(attempt: Callable[[int], None], recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Around a training step.

    Args: attempt: a step's forward and backward pass on so many images; see `attempt_step`.

    Raises: SettingsError: out of GPU memory; it names the largest part of a batch that fits, where one process trains
        (another's exchange of gradients would wait for this one), and the setting for it.
    """
    failed = False
    try:
        yield
    except torch.OutOfMemoryError:
        failed = True  # what the error's frames hold is released first
    if failed:
        raise _error(attempt, recipe, device)


def _error(attempt: Callable[[int], None], recipe: Recipe, device: torch.device) -> SettingsError:
    share, parts = recipe.optim.batch // distributed.world_size(), recipe.run.accumulate
    got, more = "less", 2 * parts
    if distributed.world_size() == 1:
        fits = largest(attempt, [share // count for count in range(share, parts, -1) if share % count == 0])
        got, more = (f"room for {fits}, as tried out", share // fits) if fits else ("not even room for one", 0)
    do = f"--set run.accumulate={more} (the same step in {more} parts), or a smaller optim.batch"
    if not more:
        do = "a smaller net, smaller views, or fewer prototypes"
    return SettingsError(
        wanted=f"memory on {device} for {share // parts} images at a time", got=got, where="optim.batch", do=do
    )


def largest(attempt: Callable[[int], None], sizes: Sequence[int]) -> int:
    """The largest of the ascending `sizes` with which `attempt` does not run out of memory; 0: none."""
    low, high = -1, len(sizes)
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(attempt, sizes[middle]):
            low = middle
        else:
            high = middle
    return sizes[low] if low >= 0 else 0


def _fits(attempt: Callable[[int], None], size: int) -> bool:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        attempt(size)
    except torch.OutOfMemoryError:
        return False
    return True


def attempt_step(
    state: State[Any], method: Method[Any], recipe: Recipe, dataset: loader.ViewDataset, order: loader.Order
) -> Callable[[int], None]:
    """For `enough_memory`: forward and backward of the step's first images, with room for AdamW's two averages."""

    def attempt(size: int) -> None:
        state.optimizer.zero_grad(set_to_none=True)
        parameters = [p for p in state.network.parameters() if p.requires_grad]
        averages = [] if state.optimizer.state else [torch.empty_like(p) for p in parameters for _ in range(2)]
        keys = next(order.epoch(state.position.epoch, state.position.step_in_epoch))[:size]
        host = loader.collate(dataset.__getitems__(keys), recipe.views)
        batch = loader.to_device(host, recipe.views, state.device, mean=recipe.data.mean, std=recipe.data.std)
        with card.autocast(state.device, recipe.run.precision):
            output = method.loss(batch, state)
        output.loss.backward()
        del averages
        state.optimizer.zero_grad(set_to_none=True)

    return attempt
