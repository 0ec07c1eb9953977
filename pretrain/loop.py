"""The training loop: batches in a fixed order, one step after another, resumable to the bit.

Nothing is drawn from a stream that lives across steps: views and masks depend on (seed, epoch, image), drop path on
(seed, step, process). So the position, with weights, optimizer and centres, is the whole state of a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaltk import crew, distributed, files, owned, processes
from evaltk.errors import EvaltkError, SettingsError
from evaltk.processes import REQUEUE
from evaltk.progress import log
from evaltk.seeding import derive
from evaltk.types import Arch
from pretrain import (
    card,
    checkpoint,
    compiling,
    finite,
    fitting,
    guarding,
    live,
    methods,
    nets,
    optim,
    sameness,
    signals,
)
from pretrain.data import loader, sources
from pretrain.data.views import Views
from pretrain.method import Method
from pretrain.monitor import Monitor, StepRecord
from pretrain.recipe import Recipe, Run
from pretrain.schedules import Rates
from pretrain.state import Collapsed, Diverged, Position, State, distribute
from pretrain.watching import Watching

__all__ = ["REQUEUE", "Collapsed", "Diverged", "alone_in", "run", "train", "train_step"]


def run(recipe: Recipe, *, out: Path, device: str, resume: str = "auto", watching: Watching | None = None) -> int:
    """Train to the end of the recipe. Returns: 0, or if stopped by a signal REQUEUE, or 130 after Ctrl-C.

    Args:
        out: folder of checkpoints, log and merged settings, in which no other run is under way.
        resume: ``auto``, ``never`` or a checkpoint's path. watching: what is done about divergence and collapse.

    Raises: EvaltkError: unusable settings, data or checkpoint. Diverged: something is not finite. Collapsed.
    """
    method = methods.get(recipe.method.name)
    card.check_precision(torch.device(device), recipe.run.precision)
    with distributed.process_group(device), contextlib.ExitStack() as stack:
        source = open_images(recipe)
        loader.check_order(len(source), recipe.optim.batch, distributed.world_size(), recipe.run.accumulate)
        arch = nets.parse(recipe.net.arch)
        check_view_sizes(recipe.views, arch.patch_size)
        stack.enter_context(alone_in(out))
        state = init_state(recipe, method, arch, torch.device(device))
        images = sameness.identity(source)
        checkpoint.resume(state, recipe, method, folder=out, source=resume, images=images)
        monitor = Monitor(recipe, method, arch, source, out=out, device=torch.device(device), watching=watching)
        if distributed.is_main():
            files.write_text(out / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=1) + "\n")
        monitor.start(state.position.step)
        stack.callback(monitor.close)
        saver = checkpoint.Saver(out, recipe, method, arch, images)
        dataset = loader.ViewDataset(
            source,
            recipe.views,
            seed=recipe.run.seed,
            masking=method.masks(recipe.method),
            patch_size=arch.patch_size,
        )
        guard = guarding.Guard(recipe, method, monitor.watching, saver, monitor, source)
        return train(recipe, method, dataset, state, monitor, guard)


def open_images(recipe: Recipe) -> sources.Source:
    """The training images, with a line about how many there are and what was left out. Raises: as `open_source`."""
    source = sources.open_source(recipe.data.source, recipe.data.options)
    if distributed.is_main():
        log.info("training on %s", sources.told(source, recipe.data.source))
        if tested := sources.held_out(source):
            folders = " and ".join(f"{name}/" for name in tested)
            log.warning("images in %s are trained on, too; --data imagefolder=DIR takes those of train/ alone", folders)
    return source


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
        student=distribute(network, accumulate=recipe.run.accumulate),
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
    guard: guarding.Guard,
) -> int:
    """Train the remaining epochs. Returns, raises: as `run`."""
    o, r, saver = recipe.optim, recipe.run, guard.saver
    order = loader.Order(
        count=len(dataset.source),
        batch=o.batch,
        seed=r.seed,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    total = order.steps * o.epochs
    crew.doing("starting", 60 * r.patience_minutes)
    with (
        signals.handle_signals() as stop,
        stop.stepping(),
        live.shown(steps=total, epochs=o.epochs) as monitor.line,
    ):
        guard.begin(state)
        while state.position.epoch < o.epochs:
            epoch = state.position.epoch
            order = dataclasses.replace(order, reorders=state.incidents.reorders)
            for batches in _rest_of_epoch(epoch, dataset, order, state.position.step_in_epoch, r):
                at = state.position
                crew.doing(f"step {at.step}")
                rates = method.rates(o, at.step, total_steps=total, epoch_steps=order.steps)
                attempt = fitting.attempt_step(state, method, recipe, dataset, order)
                with fitting.enough_memory(attempt, recipe, state.device):
                    record = train_step(batches, state, method, recipe, rates, stop=stop.requested)
                outcome = guard.settle(record, state, batches)
                crew.doing(f"the log of step {at.step}")
                if outcome == "taken":
                    outcome = guard.settle_seen(monitor.step(record, state), at.step, state)
                if outcome == "rolled back":
                    break
                state.position = Position(epoch=epoch, step_in_epoch=at.step_in_epoch + 1, step=at.step + 1)
                if monitor.line is not None:
                    monitor.line.at(at.step + 1, epoch)
                crew.doing(f"the checkpoint of step {at.step}")
                if record.stop:
                    return _stopped(stop, state, saver)
                if saver.due() and guard.save(state) == "rolled back":
                    break
                crew.doing(f"loading the images of step {at.step + 1}")
            else:
                state.position = Position(epoch=epoch + 1, step=state.position.step)
                keep = f"checkpoint-epoch{epoch + 1:04d}.pth" if (epoch + 1) % r.keep_every == 0 else None
                if epoch + 1 == o.epochs or keep or saver.due():
                    guard.save(state, keep=keep, wait=epoch + 1 == o.epochs)
    crew.doing("the last line of the log")
    guard.settle_seen(monitor.end(state), state.position.step, state)
    return 0


def _stopped(stop: signals.StopFlag, state: State[Any], saver: checkpoint.Saver) -> int:
    """Write a checkpoint after a signal. Returns: the exit code, on every process that of the one which got it."""
    mine = torch.tensor(float(stop.code if stop.requested else 0), device=state.device)
    code = int(distributed.all_reduce(mine, op="max")) or REQUEUE
    saver.save(state, wait=True)
    if distributed.is_main():
        path = saver.folder / checkpoint.LAST
        why = stop.name or "a signal to another process"
        message = "stopped by %s: the checkpoint of step %d is %s; the same command goes on"
        log.info(message, why, state.position.step, path)
    return code


def _rest_of_epoch(
    epoch: int, dataset: loader.ViewDataset, order: loader.Order, start: int, settings: Run
) -> Iterator[list[loader.HostBatch]]:
    """Per step from `start` on, its micro-batches."""
    steps = list(order.epoch(epoch, start))
    micro_batches = [part for step in steps for part in _split(step, settings.accumulate)]
    loaded = loader.loader(dataset, micro_batches, workers=settings.workers, world=order.world)
    do = "use fewer (--set run.workers=1); the same command goes on from the last checkpoint"
    batches = iter(processes.items(loaded, where="run.workers", do=do))
    for _ in steps:
        yield [next(batches) for _ in range(settings.accumulate)]


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
    before = finite.buffers(state.network, state.teacher)
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
    centers = state.centers  # as the loss used them
    gradients = _clip(state, method, recipe.optim)
    values = [*parts.values(), *centers.values(), *([] if output.teacher is None else [output.teacher])]
    bad = any(batch.bad for batch in batches)
    found = finite.verdict(loss, values, gradients.flags(recipe.optim), stop=stop, unreadable=bad)
    if found.unreadable:
        state.incidents = guarding.gathered(state, batches)
    # Losses are scaled so that gradients may overflow now and then; the scaler leaves such steps out by itself.
    overflowed = state.scaler.is_enabled() and not found.gradients
    readable = not found.unreadable or len(state.incidents.unreadable) <= d.skip_bad_images
    taken = found.values and (found.gradients or overflowed) and readable
    if taken:
        _update(state, method, recipe.optim, rates.momentum)
        state.centers = method.update_centers(state)
    else:
        finite.restore(before)
    state.optimizer.zero_grad(set_to_none=True)
    return StepRecord(
        step=step,
        epoch=state.position.epoch,
        loss=found.loss,
        parts=parts,
        rates=rates,
        output=output,
        centers=centers,
        gradients=gradients,
        stop=found.stop,  # all processes stop at the same step
        taken=taken,
        unreadable=found.unreadable,
        overflowed=overflowed,
    )


def _gradient_exchange(state: State[Any], *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """DDP exchanges gradients in the backward pass of a step's last micro-batch alone."""
    no_sync = getattr(state.student, "no_sync", contextlib.nullcontext)
    return contextlib.nullcontext() if last else no_sync()


def _clip(state: State[Any], method: Method[Any], settings: optim.Optim) -> finite.Gradients:
    """Clip the gradients. Returns: their norms before."""
    if state.scaler.is_enabled():
        state.scaler.unscale_(state.optimizer)
    named = [(n, p) for n, p in state.network.named_parameters() if p.grad is not None]
    clipped = {n: p for n, p in named if n not in method.unregularized}
    others = {n: p for n, p in named if n in method.unregularized}
    unclipped = optim.clip_global(others.values(), 0.0) if others else None
    if not clipped:
        return finite.Gradients(
            names=("",), norms=torch.zeros(1, device=state.device), other_names=tuple(others), others=unclipped
        )
    clip = optim.clip_each if settings.clip_kind == "parameter" else optim.clip_global
    norms = clip(clipped.values(), settings.clip)
    return finite.Gradients(names=tuple(clipped), norms=norms, other_names=tuple(others), others=unclipped)


def _update(state: State[Any], method: Method[Any], settings: optim.Optim, momentum: float) -> None:
    """Freeze, step, average."""
    if all(p.grad is None for n, p in state.network.named_parameters() if n not in method.unregularized):
        return
    if state.position.epoch < settings.freeze_last_layer:
        optim.freeze(state.network, method.frozen_at_first)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    optim.average(state.teacher, state.network, momentum)
