"""A run that says how it is: JSON lines with what tells learning from collapse, and warnings while it happens."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaltk import distributed, files
from evaltk.data import transforms
from evaltk.progress import log
from evaltk.prototypes import duplicates
from evaltk.seeding import generator
from evaltk.types import Arch
from pretrain import objective
from pretrain.data import sources
from pretrain.methods import dino
from pretrain.nets import Network
from pretrain.recipe import Recipe

if TYPE_CHECKING:
    from pretrain.state import State

LOG = "log.jsonl"
DUPLICATE = 0.9  # cosine above which prototypes count as the same (paper, Table 4)
NEIGHBOURS = 20


class Monitor:
    """Writes a line every `log_every` steps, with k-NN and the prototypes every `monitor_every`."""

    def __init__(self, recipe: Recipe, source: sources.Source, out: Path, arch: Arch, *, device: torch.device) -> None:
        self.recipe, self.source, self.out, self.arch, self.device = recipe, source, out, arch, device
        self.won = torch.zeros(recipe.method.num_prototypes, dtype=torch.bool, device=device)
        self.images, self.since = 0, time.perf_counter()
        self.board: Any = None

    def begin(self, step: int) -> None:
        """Write the merged settings beside the weights, and drop log lines of steps that will be made again."""
        import dataclasses

        files.make_folder(self.out)
        files.write_text(self.out / "recipe.json", json.dumps(dataclasses.asdict(self.recipe), indent=1) + "\n")
        path = self.out / LOG
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < step]
        files.write_text(path, "".join(f"{line}\n" for line in kept))
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.out / "tensorboard"))
        except ImportError:
            self.board = None

    def step(
        self,
        step: int,
        epoch: int,
        loss: float,
        parts: dict[str, Any],
        rates: dict[str, float],
        found: objective.Outcome,
        norms: Tensor,
        state: State,
        centers: Mapping[str, Tensor],
    ) -> None:
        """Take note of a step; every so often, write what was seen. `centers`: as they were in the loss."""
        self.images += self.recipe.optim.batch
        if found.teacher is not None:
            center = centers.get("cls")
            self.won[(found.teacher if center is None else found.teacher - center).argmax(dim=1)] = True
        if step % self.recipe.run.log_every:
            return
        line: dict[str, Any] = {"step": step, "epoch": epoch, "loss": loss}
        line |= {name: float(value) for name, value in parts.items()} | rates
        line["log_k"] = math.log(self.recipe.method.num_prototypes)
        line |= self._distributions(found, centers)
        line["grad_norm_max"] = float(norms.max())
        line |= self._kappa(state.teacher)
        if step % self.recipe.run.monitor_every == 0:
            line |= self._costly(state.teacher)
        seconds = time.perf_counter() - self.since
        line["images_per_second"] = self.images / seconds
        steps_left = self.recipe.optim.epochs * (len(self.source) // self.recipe.optim.batch) - step - 1
        line["seconds_left"] = steps_left * self.recipe.optim.batch / line["images_per_second"]
        self.images, self.since = 0, time.perf_counter()
        self.won.zero_()
        self._write(line)

    def end(self, state: State) -> None:
        """A last line with everything."""
        if distributed.is_main():
            line: dict[str, Any] = {"step": state.position.step, "epoch": state.position.epoch}
            line |= {"log_k": math.log(self.recipe.method.num_prototypes)} | self._kappa(state.teacher)
            self._write(line | self._costly(state.teacher))

    def _write(self, line: dict[str, Any]) -> None:
        if not distributed.is_main():
            return
        line["alarms"] = alarms(line)
        for alarm in line["alarms"]:
            log.warning("step %d: %s", line["step"], alarm)
        with (self.out / LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({k: _plain(v) for k, v in line.items()}) + "\n")
        if self.board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self.board.add_scalar(name, value, line["step"])
        shown = ("loss", "teacher_entropy", "won_share", "kappa_median", "knn", "images_per_second")
        log.info("step %d: %s", line["step"], ", ".join(f"{k} {line[k]:.4g}" for k in shown if k in line))

    @torch.no_grad()
    def _distributions(self, found: objective.Outcome, centers: Mapping[str, Tensor]) -> dict[str, float]:
        if found.teacher is None:
            return {}
        center = centers.get("cls")
        center = torch.zeros(found.teacher.shape[1], device=found.teacher.device) if center is None else center
        q = dino.teacher_probabilities(found.teacher, center, temperature=found.divide)
        entropy = float(dino.mean_entropy(q))
        told = {"teacher_entropy": entropy, "won_share": float(self.won.float().mean())}
        if "cls" in centers:
            told["center_entropy"] = float(torch.special.entr(torch.softmax(center, 0)).sum())
            if self.recipe.method.name == "dino":
                told["kl"] = float(found.loss) - entropy  # cross-entropy = entropy + KL, of the same images
        return told

    def _kappa(self, teacher: Network) -> dict[str, float]:
        layer = getattr(teacher.head, "last_layer", None)
        if layer is None:
            return {}
        g = layer.weight_g.detach().abs().flatten()
        kappa = (g if layer.kind != "cosine" else torch.ones_like(g)) / self.recipe.method.teacher_temp_end
        return {
            "kappa_min": float(kappa.min()),
            "kappa_median": float(kappa.median()),
            "kappa_max": float(kappa.max()),
        }

    def _costly(self, teacher: Network) -> dict[str, float]:
        if not distributed.is_main():
            return {}
        w = teacher.prototypes if self.recipe.method.name == "msn" else teacher.head.last_layer.weight
        sets = duplicates.duplicate_sets(w.detach(), DUPLICATE, device=self.device.type)
        told: dict[str, float] = {"unique_prototypes": len(sets.sizes), "largest_duplicate_set": sets.largest}
        if self.source.labels is not None and self.recipe.run.knn:
            told |= self._watch(teacher)
        return told

    @torch.no_grad()
    def _watch(self, teacher: Network) -> dict[str, float]:
        """k-NN on a slice of the training images (a quarter of it asks the rest) and the rank of its features."""
        draw = generator(self.recipe.run.seed, "watch")
        chosen = torch.randperm(len(self.source), generator=draw)[: self.recipe.run.knn].tolist()
        view = transforms.view("eval", self.arch.img_size, self.recipe.data.mean, self.recipe.data.std)
        rows, labels = [], []
        teacher.eval()
        for start in range(0, len(chosen), 256):
            part = chosen[start : start + 256]
            pixels = torch.from_numpy(np.stack([view.pixels(self.source.open(i)) for i in part])).to(self.device)
            rows.append(teacher.tokens(view.normalise(pixels))[:, 0].float())
        teacher.train()
        assert self.source.labels is not None
        labels = torch.as_tensor(self.source.labels[chosen], device=self.device)
        x = F.normalize(torch.cat(rows), dim=1)
        asked = len(x) // 4
        # Through float64, so that equal images are equally near; of those the first is taken, on every device.
        similarity = (x[:asked].double() @ x[asked:].double().T).float()
        similarity, index = (t[:, :NEIGHBOURS] for t in similarity.sort(dim=1, descending=True, stable=True))
        votes = torch.zeros(asked, int(labels.max()) + 1, dtype=torch.float64, device=x.device)
        votes.scatter_add_(1, labels[asked:][index], (similarity.double() / 0.07).exp())
        spectrum = torch.linalg.svdvals(x - x.mean(0))
        share = spectrum / spectrum.sum()
        return {
            "knn": float((votes.argmax(1) == labels[:asked]).float().mean()),
            "feature_rank": float(torch.special.entr(share).sum().exp()),  # effective rank (Roy & Vetterli 2007)
        }


def alarms(line: dict[str, Any]) -> list[str]:
    """What a log line says of collapse, in words."""
    found = []
    log_k, entropy = line.get("log_k"), line.get("teacher_entropy")
    if log_k and entropy is not None and line["step"] > 0:
        if entropy > 0.99 * log_k and line.get("loss", 0.0) > 0.99 * log_k:
            found.append(f"collapse: the teacher is uniform (entropy {entropy:.3f} of ln K = {log_k:.3f})")
        if entropy < 0.01 and line.get("won_share", 1.0) * math.exp(log_k) <= 2:
            found.append("collapse: one prototype takes every image")
    if log_k and line.get("largest_duplicate_set", 0) > math.exp(log_k) / 2:
        of = round(math.exp(log_k))
        found.append(f"void set: {line['largest_duplicate_set']} of {of} prototypes point the same way")
    return found


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) else value
