"""The training loop: batches in a fixed order, one step after another, resumable to the bit.

Nothing is drawn from a stream that lives across steps: views and masks depend on (seed, epoch, image), drop path on
(seed, step, process). So the position alone, with weights, optimizer and centres, is the state of a run.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from evaltk import distributed, progress
from evaltk.errors import SettingsError
from evaltk.progress import log
from evaltk.seeding import derive
from evaltk.types import Arch
from pretrain import checkpoint as saving
from pretrain import nets, objective, optim, schedules, signals
from pretrain.checkpoint import Position
from pretrain.data import loader as data
from pretrain.data import sources
from pretrain.monitor import Monitor
from pretrain.recipe import Recipe
from pretrain.signals import REQUEUE
from pretrain.state import State, begin, go_on

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(RuntimeError):
    """A value that is not finite: the run stops, the last good checkpoint stays."""


def run(recipe: Recipe, *, out: Path, device: str, resume: str = "auto") -> int:
    """Train to the end of the recipe. Returns: 0, or REQUEUE where a signal stopped it.

    Args:
        out: folder of checkpoints, log and merged settings. resume: ``auto``, ``never`` or a checkpoint's path.

    Raises: EvaltkError: settings, data or a checkpoint that will not do. Diverged: a value that is not finite.
    """
    with distributed.process_group(device):
        source = sources.open_source(recipe.data.source)
        world = distributed.world_size()
        data.check_order(len(source), recipe.optim.batch, world, recipe.run.accumulate)
        arch = nets.parse(recipe.net.arch)
        _check_sizes(recipe, arch)
        state = begin(recipe, arch, torch.device(device))
        go_on(state, recipe, out, resume)
        monitor = Monitor(recipe, source, out, arch, device=torch.device(device))
        if distributed.is_main():
            monitor.begin(state.position.step)
        return _Loop(recipe, arch, source, state, monitor, out).train()


def _check_sizes(recipe: Recipe, arch: Arch) -> None:
    v = recipe.views
    for name, size in (("global_size", v.global_size), ("local_size", v.local_size)):
        if size % arch.patch_size:
            raise SettingsError(
                wanted=f"a multiple of the patch, {arch.patch_size}", got=str(size), where=f"views.{name}", do="mend it"
            )


class _Loop:
    """One run; `train` returns when it is over."""

    def __init__(
        self, recipe: Recipe, arch: Arch, source: sources.Source, state: State, monitor: Monitor, out: Path
    ) -> None:
        self.recipe, self.arch, self.source, self.state, self.monitor, self.out = (
            recipe,
            arch,
            source,
            state,
            monitor,
            out,
        )
        self.device = next(state.network.parameters()).device
        self.order = data.Order(
            count=len(source),
            batch=recipe.optim.batch,
            seed=recipe.run.seed,
            rank=distributed.rank(),
            world=distributed.world_size(),
        )
        self.total = self.order.steps * recipe.optim.epochs
        self.saved = time.monotonic()
        self.stop = False
        self.bad = 0

    def train(self) -> int:
        """Every epoch that is left."""
        with signals.answered(self._on_signal):
            for epoch in range(self.state.position.epoch, self.recipe.optim.epochs):
                if not self._epoch(epoch):
                    self._save()
                    log.info("stopped by a signal after a checkpoint; the same command goes on")
                    return REQUEUE
                done = epoch + 1
                self.state.position = Position(epoch=done, step=self.state.position.step)
                last = done == self.recipe.optim.epochs
                keep = f"checkpoint-epoch{done:04d}.pth" if done % self.recipe.run.keep_every == 0 else None
                if last or keep or self._due():
                    self._save(keep)
        self.monitor.end(self.state)
        return 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop = True

    def _due(self) -> bool:
        due = time.monotonic() - self.saved > 60 * self.recipe.run.save_minutes
        return bool(distributed.broadcast_object(due))  # the clocks of the processes differ

    def _epoch(self, epoch: int) -> bool:
        """Train the rest of an epoch. Returns: False where a signal asked to stop."""
        accumulate = self.recipe.run.accumulate
        steps = list(self.order.epoch(epoch, self.state.position.step_in_epoch))
        micro = [part for step in steps for part in _split(step, accumulate)]
        batches = iter(data.loader(self.source, self.recipe, micro, world=self.order.world))
        with progress.bar(f"epoch {epoch}", self.order.steps, done=self.order.steps - len(steps), unit="steps") as tick:
            for _ in steps:
                self._step(epoch, [next(batches) for _ in range(accumulate)])
                at = self.state.position
                self.state.position = Position(epoch=epoch, step_in_epoch=at.step_in_epoch + 1, step=at.step + 1)
                tick(1)
                if self.stop:
                    return False
                if self._due():
                    self._save()
        return True

    def _step(self, epoch: int, batches: list[dict[str, Any]]) -> None:
        state, recipe, step = self.state, self.recipe, self.state.position.step
        self._count_bad(batches)
        rates = schedules.rates_at(recipe, step, self.total, self.order.steps)
        for group, weight_decay in zip(state.optimizer.param_groups, (rates["weight_decay"], 0.0), strict=True):
            group["lr"], group["weight_decay"] = rates["lr"], weight_decay
        torch.manual_seed(derive(recipe.run.seed, "step", step, distributed.rank()))  # drop path draws from it
        loss = torch.zeros((), device=self.device)
        sums: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            found = self._forward_backward(epoch, step, batch, sums, last)
            loss = loss + found.loss.detach() / len(batches)
            sums = dict(found.sums)
            for name, value in found.parts.items():
                parts[name] = parts.get(name, 0.0) + value / len(batches)
        norms = self._update(epoch, rates["momentum"])
        centers = state.centers
        state.centers = objective.update_centers(state.centers, sums, recipe.method)
        joint = distributed.all_reduce(torch.stack([loss, loss.new_tensor(float(self.stop))]), op="mean")
        self.stop = bool(joint[1] > 0)  # all processes stop at the same step
        self._check_finite(joint[0], norms, found, batches)
        self.monitor.step(step, epoch, float(joint[0]), parts, rates, found, norms, state, centers)

    def _forward_backward(
        self, epoch: int, step: int, batch: dict[str, Any], sums: dict[str, Any], last: bool
    ) -> objective.Outcome:
        state, recipe = self.state, self.recipe
        made = data.to_views(batch, recipe.views, self.device, recipe.data.mean, recipe.data.std)
        dtype = DTYPES.get(recipe.run.precision)
        wait = contextlib.nullcontext() if last else getattr(state.student, "no_sync", contextlib.nullcontext)()
        with wait:
            with torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                found = objective.evaluate(
                    state.student, state.teacher, made, batch, state.centers, sums, recipe, epoch=epoch, step=step
                )
            # Backward also where the loss is not finite: the other processes wait for this one's gradients.
            state.scaler.scale(found.loss / recipe.run.accumulate).backward()
        return found

    def _update(self, epoch: int, momentum: float) -> Tensor:
        """Clip, freeze, step, average. Returns: the gradients' norms."""
        state, o = self.state, self.recipe.optim
        state.scaler.unscale_(state.optimizer) if state.scaler.is_enabled() else None
        clipped = [p for n, p in state.network.named_parameters() if n != "prototypes"]
        if all(p.grad is None for p in clipped):
            return torch.zeros(1)
        clip = optim.clip_each if o.clip_kind == "parameter" else optim.clip_global
        norms = clip(clipped, o.clip)
        if bool(torch.isfinite(norms).all()) or state.scaler.is_enabled():
            if epoch < o.freeze_last_layer:
                optim.freeze_last_layer(state.network)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            optim.average(state.teacher, state.network, momentum)
        state.optimizer.zero_grad(set_to_none=True)
        return norms

    def _check_finite(
        self, loss: Tensor, norms: Tensor, found: objective.Outcome, batches: list[dict[str, Any]]
    ) -> None:
        fine = bool(torch.isfinite(loss)) and (self.state.scaler.is_enabled() or bool(torch.isfinite(norms).all()))
        if fine:
            return
        names = [n for n, p in self.state.network.named_parameters() if not bool(torch.isfinite(p).all())]
        named = {"teacher scores": found.teacher} | {f"centre {k}": c for k, c in self.state.centers.items()}
        names += [n for n, t in named.items() if t is not None and not bool(torch.isfinite(t).all())]
        images = [name for b in batches for name in b["ids"]][:8]
        what = "a gradient" if bool(torch.isfinite(loss)) else "the loss"
        raise Diverged(
            f"step {self.state.position.step}: {what} is not finite; "
            f"first not finite: {names[0] if names else 'scores of the student'}; images {', '.join(images)} ...; "
            f"the last good checkpoint is {self.out / saving.LAST}"
        )

    def _count_bad(self, batches: list[dict[str, Any]]) -> None:
        bad = [name for b in batches for name in b["bad"]]
        self.bad += len(bad)
        for name in bad:
            log.warning("unreadable image replaced by the next: %s", name)
        if self.bad > self.recipe.data.skip_bad_images:
            self._save()
            raise data.DataError(
                wanted=f"at most {self.recipe.data.skip_bad_images} unreadable images", got=str(self.bad), where=bad[0],
                do="restore it, or --set data.skip_bad_images=N",
            )  # fmt: skip

    def _save(self, keep: str | None = None) -> None:
        if distributed.is_main():
            training = {"optimizer": self.state.optimizer.state_dict()}
            if self.state.scaler.is_enabled():
                training["fp16_scaler"] = self.state.scaler.state_dict()
            nets_now = (self.state.network, self.state.teacher)
            tree = saving.pack(self.recipe, self.arch, nets_now, self.state.centers, training, self.state.position)
            saving.write(self.out, tree, keep=keep)
        self.saved = time.monotonic()
        distributed.barrier()


def _split(step: list[tuple[int, int]], parts: int) -> list[list[tuple[int, int]]]:
    size = len(step) // parts
    return [step[i : i + size] for i in range(0, len(step), size)]
