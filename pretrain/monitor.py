"""Log of a training run: JSON lines with loss, rates and signs of collapse, and warnings as soon as one shows."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaltk import distributed
from evaltk.data import transforms
from evaltk.errors import DataError, EvaltkError
from evaltk.progress import log
from evaltk.prototypes import duplicates
from evaltk.seeding import generator
from evaltk.types import Arch
from pretrain import collapse, live, logfile, trackers
from pretrain.background import patiently
from pretrain.data import sources
from pretrain.finite import Gradients, word
from pretrain.method import LossOutput, Method
from pretrain.methods import dino
from pretrain.nets import Network
from pretrain.recipe import Recipe
from pretrain.schedules import Rates
from pretrain.state import State
from pretrain.watching import Watching

DUPLICATE = 0.9  # cosine above which prototypes are duplicates (paper, Table 4)
NEIGHBOURS = 20
ROLLED_BACK = "rolled back"
SHOWN = (
    "loss", "teacher_entropy", "prototypes_used", "unique_prototypes", "largest_duplicate_set", "kappa_median", "knn",
    "images_per_second",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepRecord:
    """A step that was taken, or why it was not.

    Attributes:
        loss, parts: mean over micro-batches; the loss over processes, too. output: of the last micro-batch. centers: as
            the loss used them. stop: whether a process was asked to stop. taken: whether nets and centres moved.
            unreadable: whether a process met an unreadable image. overflowed: whether a gradient of scaled losses did.
    """

    step: int
    epoch: int
    loss: float
    parts: Mapping[str, Tensor | float]
    rates: Rates
    output: LossOutput
    centers: Mapping[str, Tensor]
    gradients: Gradients
    stop: bool = False
    taken: bool = True
    unreadable: bool = False
    overflowed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the monitor met with, the same on every process.

    Attributes:
        bad: images that it could not read. unfinite: features that are not finite, in words, or empty; images: whose.
        collapse: the sign of a collapse that has lasted.
    """

    bad: tuple[sources.Bad, ...] = ()
    unfinite: str = ""
    images: tuple[str, ...] = ()
    collapse: collapse.Sign | None = None


class Monitor:
    """Writes a line every `log_every` steps, with k-NN and prototype statistics every `monitor_every`.

    Attributes:
        line: what the terminal shows, if anything.
    """

    def __init__(
        self,
        recipe: Recipe,
        method: Method[Any],
        arch: Arch,
        source: sources.Source,
        *,
        out: Path,
        device: torch.device,
        watching: Watching | None = None,
    ) -> None:
        self.recipe, self.method, self.arch, self.source = recipe, method, arch, source
        self.out, self.device, self.watching = out, device, watching or Watching()
        self.log_k = math.log(recipe.method.num_prototypes)
        # Prototypes that were the teacher's first choice for an image since the last line.
        self.won = torch.zeros(recipe.method.num_prototypes, dtype=torch.bool, device=device)
        self.images, self.since = 0, time.perf_counter()
        self.tracker: trackers.Tracker | None = None
        self.history = collapse.History()
        self.line: live.Line | None = None
        self.seen = Seen()

    @property
    def path(self) -> Path:
        """The log."""
        return self.out / logfile.LOG

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.optim.epochs * (len(self.source) // self.recipe.optim.batch)

    def start(self, step: int) -> None:
        """Open the log, without the lines of steps that will be repeated. All processes call it, once.

        Raises: SettingsError: what is logged to besides does not start. StorageError. On every process.
        """
        problem: object = None
        if distributed.is_main():
            try:
                self.tracker = trackers.begin(self.watching.log, self.out, self.recipe, step)
                self._cut(step)
            except EvaltkError as error:
                problem = error
        problem = distributed.broadcast_object(problem)
        if isinstance(problem, EvaltkError):
            raise problem

    def rewind(self, step: int) -> None:
        """Take the lines of steps from `step` on out of the log, but for rollbacks, since they will be repeated."""
        self.images, self.since = 0, time.perf_counter()
        self.won.zero_()
        if distributed.is_main():
            self._cut(step, keep=ROLLED_BACK)

    def _cut(self, step: int, *, keep: str = "") -> None:
        self.history = collapse.History()
        for line in logfile.cut(self.path, step, keep=keep):
            numbers = collapse.numbers(line)
            self.history.add(numbers, collapse.signs(numbers, self.history))

    def step(self, record: StepRecord, state: State[Any]) -> Seen:
        """Count a step; every `log_every` steps, write a line. All processes call it."""
        o, r, output = self.recipe.optim, self.recipe.run, record.output
        self.images += o.batch
        if output.teacher is not None:
            center = record.centers.get("cls")
            self.won[(output.teacher if center is None else output.teacher - center).argmax(dim=1)] = True
        if record.step % r.log_every:
            return Seen()
        self.seen = Seen()
        line: dict[str, Any] = {"step": record.step, "epoch": record.epoch, "loss": record.loss}
        line |= {name: float(value) for name, value in record.parts.items()} | dataclasses.asdict(record.rates)
        line["log_k"] = self.log_k
        line |= self._teacher_statistics(output, record.centers)
        line["grad_norm_max"] = float(record.gradients.norms.max())
        line |= self._kappa(state.teacher)
        if evaluated := record.step % r.monitor_every == 0:
            line |= self._evaluate(state.teacher)
        seconds = time.perf_counter() - self.since
        line["images_per_second"] = self.images / seconds
        line["seconds_left"] = (self.steps - record.step - 1) * o.batch / line["images_per_second"]
        self.images, self.since = 0, time.perf_counter()
        self.won.zero_()
        self._write(line | self._run_so_far(state))
        if evaluated or self.watching.stop_on_collapse:
            seen = distributed.broadcast_object(self.seen)
            assert isinstance(seen, Seen)
            return seen
        return Seen()

    def _run_so_far(self, state: State[Any]) -> dict[str, int]:
        """Fields of a line that are about the run rather than the step."""
        so_far = {"steps": self.steps, "epochs": self.recipe.optim.epochs, "time": round(time.time())}
        counts = {"unreadable": state.incidents.unreadable, "skipped": state.incidents.skipped}
        return so_far | {name: len(found) for name, found in counts.items() if found}

    def end(self, state: State[Any]) -> Seen:
        """A last line, with k-NN and prototype statistics. Only the main process sees something."""
        self.seen = Seen()
        if distributed.is_main():
            line: dict[str, Any] = {"step": state.position.step, "epoch": state.position.epoch, "log_k": self.log_k}
            line |= self._kappa(state.teacher) | self._evaluate(state.teacher)
            self._write(line | self._run_so_far(state))
        return self.seen

    def close(self) -> None:
        """End what else is logged to."""
        if self.tracker is not None:
            self.tracker.close()

    def incident(
        self, step: int, epoch: int, event: str, what: str, images: Sequence[str] = (), **detail: object
    ) -> None:
        """A line about a step that was ``skipped``, ``rolled back``, ``diverged`` or ``collapsed``, with its images."""
        if distributed.is_main():
            line = {"step": step, "epoch": epoch, "event": event, "what": what, "images": list(images), "alarms": []}
            logfile.append(self.path, line | detail | {"time": round(time.time())})

    def _write(self, line: dict[str, Any]) -> None:
        if not distributed.is_main():
            return
        found = collapse.signs(line, self.history)
        self.history.add(line, found)
        frozen = bool(self.method.frozen_at_first) and line["epoch"] < self.recipe.optim.freeze_last_layer
        lasting = next((sign for sign in found if self.history.lasts(sign) and not frozen), None)
        self.seen = dataclasses.replace(self.seen, collapse=lasting)
        line["alarms"] = [sign.text for sign in found] + [f"{name} is not finite" for name in logfile.unfinite(line)]
        for sign in found:
            log.warning("step %d: %s; what helps: %s", line["step"], sign.text, sign.do)
        patiently(lambda: logfile.append(self.path, line), self.recipe.run.disk_minutes, str(self.path))
        values = {name: float(value) for name, value in collapse.numbers(line).items() if name not in ("step", "time")}
        if self.tracker is not None:
            self.tracker.write(line["step"], values)
        if self.line is not None:
            self.line.add(line | {"num_prototypes": self.recipe.method.num_prototypes})
        level = logging.INFO if self.line is None or "unique_prototypes" in line else logging.DEBUG
        log.log(level, "step %d: %s", line["step"], ", ".join(f"{k} {line[k]:.4g}" for k in SHOWN if k in line))

    @torch.no_grad()
    def _teacher_statistics(self, output: LossOutput, centers: Mapping[str, Tensor]) -> dict[str, float]:
        if output.teacher is None:
            return {}
        center = centers.get("cls")
        subtracted = torch.zeros(output.teacher.shape[1], device=output.teacher.device) if center is None else center
        q = dino.teacher_probabilities(output.teacher, subtracted, temperature=output.temperature)
        entropy = float(dino.mean_entropy(q))
        values = {"teacher_entropy": entropy, "won_share": float(self.won.float().mean())}
        if self.images >= self.recipe.run.log_every * self.recipe.optim.batch:  # not of a part, after resuming
            values["prototypes_used"] = int(self.won.sum())
        if center is not None:
            values["center_entropy"] = float(torch.special.entr(torch.softmax(center, 0)).sum())
        return values | self.method.log(output, entropy)

    def _kappa(self, teacher: Network) -> dict[str, float]:
        kappa = self.method.concentrations(teacher, self.recipe.method)
        if kappa is None:
            return {}
        return {
            "kappa_min": float(kappa.min()),
            "kappa_median": float(kappa.median()),
            "kappa_max": float(kappa.max()),
        }

    def _evaluate(self, teacher: Network) -> dict[str, float]:
        if not distributed.is_main():
            return {}
        sets = duplicates.duplicate_sets(self.method.prototypes(teacher), DUPLICATE, device=self.device.type)
        values: dict[str, float] = {"unique_prototypes": len(sets.sizes), "largest_duplicate_set": sets.largest}
        return values | (self._evaluate_features(teacher) if self.recipe.run.knn else {})

    @torch.no_grad()
    def _evaluate_features(self, teacher: Network) -> dict[str, float]:
        """Effective rank of the features of `run.knn` training images, and accuracy of k-NN where they have labels.

        A quarter of the images are queries.
        """
        draw = generator(self.recipe.run.seed, "watch")
        subset = torch.randperm(len(self.source), generator=draw)[: self.recipe.run.knn].tolist()
        view = transforms.view("eval", self.arch.img_size, self.recipe.data.mean, self.recipe.data.std)
        rows: list[Tensor] = []
        read: list[int] = []
        images: list[np.ndarray] = []
        bad: list[sources.Bad] = []
        teacher.eval()
        for start in range(0, len(subset), 256):
            part = subset[start : start + 256]
            for index in part:
                try:
                    images.append(view.pixels(self.source.open(index)))
                    read.append(index)
                except DataError as error:
                    bad.append((self.source.image_id(index), f"{error.where}: {error.got}"))
            if images:
                pixels = torch.from_numpy(np.stack(images)).to(self.device)
                rows.append(teacher.tokens(view.normalise(pixels))[:, 0].float())
                images.clear()
        teacher.train()
        self.seen = dataclasses.replace(self.seen, bad=tuple(bad))
        raw = torch.cat(rows or [torch.zeros(0, 1)])
        x = F.normalize(raw, dim=1)
        if not bool(torch.isfinite(x).all()):
            names = tuple(
                self.source.image_id(read[row]) for row in (~torch.isfinite(x).all(dim=1)).nonzero().flatten()
            )
            told = f"{word(x)} in the monitor's features of {len(names)} of {len(x)} images"
            self.seen = dataclasses.replace(self.seen, unfinite=told, images=names)
            return {}
        if len(x) < 2:
            return {}
        spectrum = torch.linalg.svdvals(x - x.mean(0))
        share = spectrum / spectrum.sum()
        # Effective rank (Roy & Vetterli 2007); 1 where all features are the same.
        rank = float(torch.special.entr(share).sum().exp()) if bool(spectrum.sum() > 0) else 1.0
        if self.source.labels is None or len(x) < 4:
            return {"feature_rank": rank}
        labels = torch.as_tensor(self.source.labels[read], device=self.device)
        return {"knn": knn_accuracy(x, labels, queries=len(x) // 4), "feature_rank": rank}


def knn_accuracy(x: Tensor, labels: Tensor, *, queries: int) -> float:
    """Weighted k-NN accuracy in [0, 1] of the first `queries` unit rows of x [n, D] among the rest; labels int [n]."""
    # Through float64, so that equal images are equally near; of those the first is taken, on every device.
    similarity = (x[:queries].double() @ x[queries:].double().T).float()
    similarity, index = (t[:, :NEIGHBOURS] for t in similarity.sort(dim=1, descending=True, stable=True))
    votes = torch.zeros(queries, int(labels.max()) + 1, dtype=torch.float64, device=x.device)
    votes.scatter_add_(1, labels[queries:][index], (similarity.double() / 0.07).exp())
    return float((votes.argmax(1) == labels[:queries]).float().mean())
