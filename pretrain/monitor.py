"""Log of a training run: JSON lines with loss, rates and signs of collapse, and warnings as soon as one shows."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaltk import distributed, files
from evaltk.data import transforms
from evaltk.errors import DataError
from evaltk.progress import log
from evaltk.prototypes import duplicates
from evaltk.seeding import generator
from evaltk.types import Arch
from pretrain.data import sources
from pretrain.method import LossOutput, Method
from pretrain.methods import dino
from pretrain.nets import Network
from pretrain.recipe import Recipe
from pretrain.schedules import Rates
from pretrain.state import State

LOG = "log.jsonl"
DUPLICATE = 0.9  # cosine above which prototypes are duplicates (paper, Table 4)
NEIGHBOURS = 20
SHOWN = ("loss", "teacher_entropy", "won_share", "kappa_median", "knn", "images_per_second")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepRecord:
    """A step that was taken.

    Attributes:
        loss, parts: mean over micro-batches; the loss over processes, too. output: of the last micro-batch. centers: as
            the loss used them. gradient_norms: per tensor, before clipping. finite: whether all are. stop: whether a
            process was asked to stop.
    """

    step: int
    epoch: int
    loss: float
    parts: Mapping[str, Tensor | float]
    rates: Rates
    output: LossOutput
    centers: Mapping[str, Tensor]
    gradient_norms: Tensor
    stop: bool = False
    finite: bool = True


class Monitor:
    """Writes a line every `log_every` steps, with k-NN and prototype statistics every `monitor_every`."""

    def __init__(
        self,
        recipe: Recipe,
        method: Method[Any],
        arch: Arch,
        source: sources.Source,
        *,
        out: Path,
        device: torch.device,
    ) -> None:
        self.recipe, self.method, self.arch, self.source = recipe, method, arch, source
        self.out, self.device = out, device
        self.log_k = math.log(recipe.method.num_prototypes)
        # Prototypes that were the teacher's first choice for an image since the last line.
        self.won = torch.zeros(recipe.method.num_prototypes, dtype=torch.bool, device=device)
        self.images, self.since = 0, time.perf_counter()
        self.tensorboard: Any = None

    def start(self, step: int) -> None:
        """Open the log, without the lines of steps that will be repeated."""
        path = self.out / LOG
        lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
        steps = [_step(line) for line in lines]
        if torn := steps.count(None):
            log.warning("%d damaged lines are taken out of %s", torn, path)
        kept = [line for line, at in zip(lines, steps, strict=True) if at is not None and at < step]
        files.write_text(path, "".join(f"{line}\n" for line in kept))
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(str(self.out / "tensorboard"))
        except ImportError:
            self.tensorboard = None

    def step(self, record: StepRecord, state: State[Any]) -> None:
        """Count a step; every `log_every` steps, write a line."""
        o, r, output = self.recipe.optim, self.recipe.run, record.output
        self.images += o.batch
        if output.teacher is not None:
            center = record.centers.get("cls")
            self.won[(output.teacher if center is None else output.teacher - center).argmax(dim=1)] = True
        if record.step % r.log_every:
            return
        line: dict[str, Any] = {"step": record.step, "epoch": record.epoch, "loss": record.loss}
        line |= {name: float(value) for name, value in record.parts.items()} | dataclasses.asdict(record.rates)
        line["log_k"] = self.log_k
        line |= self._teacher_statistics(output, record.centers)
        line["grad_norm_max"] = float(record.gradient_norms.max())
        line |= self._kappa(state.teacher)
        if record.step % r.monitor_every == 0:
            line |= self._evaluate(state.teacher)
        seconds = time.perf_counter() - self.since
        line["images_per_second"] = self.images / seconds
        steps_left = o.epochs * (len(self.source) // o.batch) - record.step - 1
        line["seconds_left"] = steps_left * o.batch / line["images_per_second"]
        self.images, self.since = 0, time.perf_counter()
        self.won.zero_()
        self._write(line)

    def end(self, state: State[Any]) -> None:
        """A last line, with k-NN and prototype statistics."""
        if distributed.is_main():
            line: dict[str, Any] = {"step": state.position.step, "epoch": state.position.epoch, "log_k": self.log_k}
            self._write(line | self._kappa(state.teacher) | self._evaluate(state.teacher))

    def _write(self, line: dict[str, Any]) -> None:
        if not distributed.is_main():
            return
        line["alarms"] = alarms(line)
        for alarm in line["alarms"]:
            log.warning("step %d: %s", line["step"], alarm)
        _append(self.out / LOG, json.dumps(line) + "\n")
        if self.tensorboard is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self.tensorboard.add_scalar(name, value, line["step"])
        log.info("step %d: %s", line["step"], ", ".join(f"{k} {line[k]:.4g}" for k in SHOWN if k in line))

    @torch.no_grad()
    def _teacher_statistics(self, output: LossOutput, centers: Mapping[str, Tensor]) -> dict[str, float]:
        if output.teacher is None:
            return {}
        center = centers.get("cls")
        subtracted = torch.zeros(output.teacher.shape[1], device=output.teacher.device) if center is None else center
        q = dino.teacher_probabilities(output.teacher, subtracted, temperature=output.temperature)
        entropy = float(dino.mean_entropy(q))
        values = {"teacher_entropy": entropy, "won_share": float(self.won.float().mean())}
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
        if self.source.labels is not None and self.recipe.run.knn:
            values |= self._evaluate_features(teacher)
        return values

    @torch.no_grad()
    def _evaluate_features(self, teacher: Network) -> dict[str, float]:
        """Accuracy of k-NN among `run.knn` training images (a quarter are queries) and effective rank of features."""
        draw = generator(self.recipe.run.seed, "watch")
        subset = torch.randperm(len(self.source), generator=draw)[: self.recipe.run.knn].tolist()
        view = transforms.view("eval", self.arch.img_size, self.recipe.data.mean, self.recipe.data.std)
        rows: list[Tensor] = []
        read: list[int] = []
        images: list[np.ndarray] = []
        teacher.eval()
        for start in range(0, len(subset), 256):
            part = subset[start : start + 256]
            for index in part:
                with suppress(DataError):  # training counts and names unreadable images
                    images.append(view.pixels(self.source.open(index)))
                    read.append(index)
            if images:
                pixels = torch.from_numpy(np.stack(images)).to(self.device)
                rows.append(teacher.tokens(view.normalise(pixels))[:, 0].float())
                images.clear()
        teacher.train()
        assert self.source.labels is not None
        x = F.normalize(torch.cat(rows or [torch.zeros(0, 1)]), dim=1)
        if len(x) < 2 or not bool(torch.isfinite(x).all()):  # if it diverges, the next step says so
            return {}
        labels = torch.as_tensor(self.source.labels[read], device=self.device)
        spectrum = torch.linalg.svdvals(x - x.mean(0))
        share = spectrum / spectrum.sum()
        return {
            "knn": knn_accuracy(x, labels, queries=len(x) // 4),
            "feature_rank": float(torch.special.entr(share).sum().exp()),  # effective rank (Roy & Vetterli 2007)
        }


def _step(line: str) -> int | None:
    """The step of a line of the log; None: a damaged one, as a full disk or a crash leaves it."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _append(path: Path, text: str) -> None:
    """Append a line, all of it or nothing. Raises: StorageError."""
    with files.storage_errors(path), path.open("ab", buffering=0) as stream:
        size = stream.seek(0, 2)
        rest = memoryview(text.encode())
        try:
            while rest:
                rest = rest[stream.write(rest) :]
        except OSError:
            stream.truncate(size)
            raise


def knn_accuracy(x: Tensor, labels: Tensor, *, queries: int) -> float:
    """Weighted k-NN accuracy in [0, 1] of the first `queries` unit rows of x [n, D] among the rest; labels int [n]."""
    # Through float64, so that equal images are equally near; of those the first is taken, on every device.
    similarity = (x[:queries].double() @ x[queries:].double().T).float()
    similarity, index = (t[:, :NEIGHBOURS] for t in similarity.sort(dim=1, descending=True, stable=True))
    votes = torch.zeros(queries, int(labels.max()) + 1, dtype=torch.float64, device=x.device)
    votes.scatter_add_(1, labels[queries:][index], (similarity.double() / 0.07).exp())
    return float((votes.argmax(1) == labels[:queries]).float().mean())


def alarms(line: dict[str, Any]) -> list[str]:
    """The signs of collapse in a log line, in words."""
    messages = []
    log_k, entropy = line.get("log_k"), line.get("teacher_entropy")
    if log_k and entropy is not None and line["step"] > 0:
        if entropy > 0.99 * log_k and line.get("loss", 0.0) > 0.99 * log_k:
            messages.append(f"collapse: the teacher is uniform (entropy {entropy:.3f} of ln K = {log_k:.3f})")
        if entropy < 0.01 and line.get("won_share", 1.0) * math.exp(log_k) <= 2:
            messages.append("collapse: one prototype takes every image")
    if log_k and line.get("largest_duplicate_set", 0) > math.exp(log_k) / 2:
        count = round(math.exp(log_k))
        messages.append(f"void set: {line['largest_duplicate_set']} of {count} prototypes point the same way")
    return messages
