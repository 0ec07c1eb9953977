"""The training loop: batches in a fixed order, one step after another, resumable to the bit.

Nothing is drawn from a stream that lives across steps: views and masks depend on (seed, epoch, image), drop path on
(seed, step, process). So the position, with weights, optimizer and centres, is the whole state of a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaltk import distributed, files, owned, progress
from evaltk.errors import DataError, EvaltkError, SettingsError
from evaltk.progress import log
from evaltk.seeding import derive
from evaltk.types import Arch
from pretrain import card, checkpoint, compiling, methods, nets, optim, signals
from pretrain.data import loader, sources
from pretrain.data.views import Views
from pretrain.method import Method
from pretrain.monitor import Monitor, StepRecord
from pretrain.recipe import Recipe, Run
from pretrain.schedules import Rates
from pretrain.signals import REQUEUE
from pretrain.state import Diverged, Position, State, distribute, diverged

__all__ = ["REQUEUE", "Diverged", "alone_in", "run", "train", "train_step"]


def run(recipe: Recipe, *, out: Path, device: str, resume: str = "auto") -> int:
    """Train to the end of the recipe. Returns: 0, or if stopped by a signal REQUEUE, or 130 after Ctrl-C.

    Args:
        out: folder of checkpoints, log and merged settings, in which no other run is under way.
        resume: ``auto``, ``never`` or a checkpoint's path.

    Raises: EvaltkError: unusable settings, data or checkpoint. Diverged: a loss or gradient is not finite.
    """
    method = methods.get(recipe.method.name)
    card.check_precision(torch.device(device), recipe.run.precision)
    with distributed.process_group(device), contextlib.ExitStack() as stack:
        source = sources.open_source(recipe.data.source)
        loader.check_order(len(source), recipe.optim.batch, distributed.world_size(), recipe.run.accumulate)
        arch = nets.parse(recipe.net.arch)
        check_view_sizes(recipe.views, arch.patch_size)
        stack.enter_context(alone_in(out))
        state = init_state(recipe, method, arch, torch.device(device))
        images = checkpoint.identity(source)
        checkpoint.resume(state, recipe, method, folder=out, source=resume, images=images)
        monitor = Monitor(recipe, method, arch, source, out=out, device=torch.device(device))
        if distributed.is_main():
            files.write_text(out / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=1) + "\n")
            monitor.start(state.position.step)
        saver = checkpoint.Saver(out, recipe, method, arch, images)
        dataset = loader.ViewDataset(
            source,
            recipe.views,
            seed=recipe.run.seed,
            masking=method.masks(recipe.method),
            patch_size=arch.patch_size,
        )
        return train(recipe, method, dataset, state, monitor, saver)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One training at a time works in a folder, whose lock the main process holds; what a killed one left is removed.

    Raises: StorageError, on every process: another training works there, or the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        problem: object = None
        if distributed.is_main():
            try:
                files.make_folder(folder)
                with files.storage_errors(folder):
                    do = "wait for it, end it, or choose another --out"
                    stack.enter_context(owned.lock(folder, "a training", do))
                    owned.sweep(folder)
                    (folder / f"{checkpoint.LAST}.new").unlink(missing_ok=True)  # of an earlier version
            except EvaltkError as error:
                problem = error
        problem = distributed.broadcast_object(problem)
        if isinstance(problem, EvaltkError):
            raise problem
        yield


def check_view_sizes(views: Views, patch_size: int) -> None:
    """Raises: SettingsError: a view's size that is not a multiple of the patch size."""
    for name, size in (("global_size", views.global_size), ("local_size", views.local_size)):
        if size % patch_size:
            raise SettingsError(
                wanted=f"a multiple of the patch, {patch_size}",
                got=str(size),
                where=f"views.{name}",
                do=f"e.g. --set views.{name}={max(1, size // patch_size) * patch_size}",
            )


def init_state(recipe: Recipe, method: Method[Any], arch: Arch, device: torch.device) -> State[Any]:
    """The state before the first step."""
    settings = recipe.method
    network, teacher = nets.pair(
        lambda drop_path: method.network(arch, settings, drop_path=drop_path),
        drop_path=recipe.net.drop_path,
        seed=recipe.run.seed,
    )
    network, teacher = network.to(device), teacher.to(device)
    if recipe.run.compile and card.is_card(device):
        compiling.compile_blocks([network.backbone, teacher.backbone], recipe.run.precision)
    return State(
        settings=settings,
        seed=recipe.run.seed,
        student=distribute(network),
        network=network,
        teacher=teacher,
        optimizer=optim.adamw(optim.groups(network, undecayed=method.unregularized), device),
        scaler=torch.amp.GradScaler(device.type, enabled=recipe.run.precision == "fp16" and device.type == "cuda"),
        centers=method.centers(settings, device),
    )


def train(
    recipe: Recipe,
    method: Method[Any],
    dataset: loader.ViewDataset,
    state: State[Any],
    monitor: Monitor,
    saver: checkpoint.Saver,
) -> int:
    """Train the remaining epochs. Returns, raises: as `run`."""
    o, r = recipe.optim, recipe.run
    order = loader.Order(
        count=len(dataset.source),
        batch=o.batch,
        seed=r.seed,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    unreadable: set[str] = set()
    with signals.handle_signals() as stop:
        for epoch in range(state.position.epoch, o.epochs):
            for batches in _rest_of_epoch(epoch, dataset, order, state.position.step_in_epoch, r):
                at = state.position
                if _too_many(batches, unreadable, recipe.data.skip_bad_images, state.device):
                    saver.save(state)
                    raise _unreadable(unreadable, recipe.data.skip_bad_images)
                rates = method.rates(o, at.step, total_steps=order.steps * o.epochs, epoch_steps=order.steps)
                with card.enough_memory(state.device, o.batch, r.accumulate):
                    record = train_step(batches, state, method, recipe, rates, stop=stop.requested)
                check_finite(record, state, batches, saver.folder / checkpoint.LAST)
                monitor.step(record, state)
                state.position = Position(epoch=epoch, step_in_epoch=at.step_in_epoch + 1, step=at.step + 1)
                if record.stop:
                    saver.save(state)
                    log.info("checkpoint saved after signal; rerun to resume")
                    return stop.code
                if saver.due():
                    saver.save(state)
            state.position = Position(epoch=epoch + 1, step=state.position.step)
            keep = f"checkpoint-epoch{epoch + 1:04d}.pth" if (epoch + 1) % r.keep_every == 0 else None
            if epoch + 1 == o.epochs or keep or saver.due():
                saver.save(state, keep=keep)
    monitor.end(state)
    return 0


def _rest_of_epoch(
    epoch: int, dataset: loader.ViewDataset, order: loader.Order, start: int, settings: Run
) -> Iterator[list[loader.HostBatch]]:
    """Per step from `start` on, its micro-batches."""
    steps = list(order.epoch(epoch, start))
    micro_batches = [part for step in steps for part in _split(step, settings.accumulate)]
    batches = iter(loader.loader(dataset, micro_batches, workers=settings.workers, world=order.world))
    with progress.bar(f"epoch {epoch}", order.steps, done=order.steps - len(steps), unit="steps") as advance:
        for _ in steps:
            yield [next(batches) for _ in range(settings.accumulate)]
            advance(1)


def _split(step: list[tuple[int, int]], parts: int) -> list[list[tuple[int, int]]]:
    size = len(step) // parts
    return [step[i : i + size] for i in range(0, len(step), size)]


def train_step(
    batches: Sequence[loader.HostBatch],
    state: State[Any],
    method: Method[Any],
    recipe: Recipe,
    rates: Rates,
    *,
    stop: bool,
) -> StepRecord:
    """One step of optimizer, teacher and centres over the step's micro-batches.

    Args:
        stop: whether this process was asked to stop; in the record, whether any was.
    """
    d, step, device = recipe.data, state.position.step, state.device
    optim.set_rates(state.optimizer, lr=rates.lr, weight_decay=rates.weight_decay)
    torch.manual_seed(derive(recipe.run.seed, "step", step, distributed.rank()))  # drop path draws from it
    loss, parts, state.sums = torch.zeros((), device=device), dict[str, Tensor](), {}
    for i, host_batch in enumerate(batches):
        batch = loader.to_device(host_batch, recipe.views, device, mean=d.mean, std=d.std)
        with _gradient_exchange(state, last=i == len(batches) - 1):
            with card.autocast(device, recipe.run.precision):
                output = method.loss(batch, state)
            # Backward also if the loss is not finite: the other processes wait for this one's gradients.
            state.scaler.scale(output.loss / len(batches)).backward()
        state.sums = dict(output.sums)
        loss = loss + output.loss.detach() / len(batches)
        parts = {name: parts.get(name, 0.0) + value / len(batches) for name, value in output.parts.items()}
    norms = _clip(state, method, recipe.optim)
    # One exchange and one read a step, before anything changes; all processes stop at the same step.
    told = torch.stack([loss, loss.new_full((), float(stop)), (~torch.isfinite(norms).all()).to(loss)])
    mean_loss, mean_stop, unfinite = distributed.all_reduce(told, op="mean").tolist()
    if not unfinite or state.scaler.is_enabled():
        _update(state, method, recipe.optim, rates.momentum)
    state.optimizer.zero_grad(set_to_none=True)
    centers = state.centers  # as the loss used them
    state.centers = method.update_centers(state)
    return StepRecord(
        step=step,
        epoch=state.position.epoch,
        loss=mean_loss,
        parts=parts,
        rates=rates,
        output=output,
        centers=centers,
        gradient_norms=norms,
        stop=mean_stop > 0,
        finite=not unfinite,
    )


def _gradient_exchange(state: State[Any], *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """DDP exchanges gradients in the backward pass of a step's last micro-batch alone."""
    no_sync = getattr(state.student, "no_sync", contextlib.nullcontext)
    return contextlib.nullcontext() if last else no_sync()


def _clip(state: State[Any], method: Method[Any], settings: optim.Optim) -> Tensor:
    """Clip. Returns: the gradients' norms before clipping."""
    if state.scaler.is_enabled():
        state.scaler.unscale_(state.optimizer)
    clipped = [p for n, p in state.network.named_parameters() if n not in method.unregularized]
    if all(p.grad is None for p in clipped):
        return torch.zeros(1, device=state.device)
    clip = optim.clip_each if settings.clip_kind == "parameter" else optim.clip_global
    return clip(clipped, settings.clip)


def _update(state: State[Any], method: Method[Any], settings: optim.Optim, momentum: float) -> None:
    """Freeze, step, average."""
    if all(p.grad is None for p in state.network.parameters()):
        return
    if state.position.epoch < settings.freeze_last_layer:
        optim.freeze(state.network, method.frozen_at_first)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    optim.average(state.teacher, state.network, momentum)


def check_finite(record: StepRecord, state: State[Any], batches: Sequence[loader.HostBatch], last: Path) -> None:
    """Raises: Diverged: the loss is not finite, or a gradient (unless losses are scaled, where that may happen)."""
    loss_finite = math.isfinite(record.loss)
    if loss_finite and (state.scaler.is_enabled() or record.finite):
        return
    images = [name for b in batches for name in b.ids]
    named: dict[str, Tensor | None] = dict(state.network.named_parameters())
    named |= {"teacher scores": record.output.teacher} | {f"centre {k}": c for k, c in state.centers.items()}
    first = next((n for n, t in named.items() if t is not None and not bool(torch.isfinite(t).all())), "student scores")
    got = f"{'a gradient' if loss_finite else 'the loss'} of step {record.step}, first non-finite tensor: {first}"
    raise diverged(got, f"images {', '.join(images[:3])} ...", last)


def _too_many(batches: Sequence[loader.HostBatch], seen: set[str], limit: int, device: torch.device) -> bool:
    """Name unreadable images and add them to `seen`; whether a process has seen more than the limit.

    Every process gets the same answer: one that stopped alone would leave the others waiting for its gradients.
    """
    for name in (name for batch in batches for name in batch.bad):
        if name not in seen:
            log.warning("unreadable image replaced by the next: %s", name)
        seen.add(name)
    if not distributed.active():
        return len(seen) > limit
    return bool(distributed.all_reduce(torch.tensor(float(len(seen)), device=device)) > limit)


def _unreadable(seen: set[str], limit: int) -> DataError:
    return DataError(
        wanted=f"at most {limit} unreadable images",
        got=str(len(seen) or "more in other processes"),
        where=min(seen, default="data.source"),
        do="restore them, or --set data.skip_bad_images=N",
    )
