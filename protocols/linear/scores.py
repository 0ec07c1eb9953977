"""The figures of linear heads: chosen on held-out training images, best on the reported split, and the whole sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from evaltk.bench import Outcome
from evaltk.data.images import Dataset
from evaltk.deviations import left_out
from evaltk.features.sweep_cache import Trained
from evaltk.metrics.statistics import wilson_interval
from evaltk.types import Features, Recipe, Score
from protocols.linear import heads as probe
from protocols.linear.published_head import LinearHead

FEW = 100  # held-out images below which a choice among learning rates is rough


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Which heads there are: F recipes and H learning rates, and the columns: {name: numbers of recipes}.

    `num_held`: images held out, the share `holdout` of the training images.
    """

    recipes: tuple[Recipe, ...]
    lrs: tuple[float, ...]
    groups: Mapping[str, list[int]]
    num_held: int
    holdout: float

    def at(self, f: int, h: int, epoch: int) -> dict[str, object]:
        """The settings of a head after `epoch` (0-based)."""
        pool = "mean" if "mean" in self.recipes[f].tokens else "none"
        return {"lr": self.lrs[h], "blocks": self.recipes[f].last, "pool": pool, "epoch": epoch + 1}


def of_sweep(dataset: Dataset, reported: Features, sweep: Sweep, trained: Trained, notes: tuple[str, ...]) -> Outcome:
    """Scores of every column, then top-1 of every head after the last epoch; predictions of the heads named."""
    last = len(trained.history["test_correct"]) - 1
    held = f"{sweep.num_held} images of {dataset.train.name}, held out"
    scores: list[Score] = []
    arrays: dict[str, np.ndarray] = {"target": reported.y}
    for name, features in sweep.groups.items():
        f = _chosen(features, trained)
        if f is not None:
            at = sweep.at(f, int(trained.chosen_head[f]), last) | {"chosen_on": held}
            scores += _pair(dataset, trained.chosen_rank[f], name, "", at)
            arrays[f"{name}_last"] = trained.chosen_predicted[f].astype(np.int32)
        f = max(features, key=lambda i: (int((trained.best_rank[i] == 0).sum()), -i))
        at = sweep.at(f, int(trained.best_head[f]), int(trained.best_epoch[f])) | {"chosen_on": "the reported split"}
        scores += _pair(dataset, trained.best_rank[f], name, "_best_epoch", at)
        arrays[f"{name}_best"] = trained.best_predicted[f].astype(np.int32)
    for f in range(len(sweep.recipes)):
        for h in range(len(sweep.lrs)):
            correct = trained.history["test_correct"][-1, f, h]
            if np.isfinite(correct):
                scores.append(_score(dataset, int(correct), len(reported.y), "top1", sweep.at(f, h, last)))
    arrays["top1_by_epoch"] = (trained.history["test_correct"] / len(reported.y)).astype(np.float32)  # [E, F, H]
    return Outcome(
        scores=tuple(scores),
        predictions=arrays,
        deviations=tuple(left_out(int(trained.skipped), dataset.train.name)),
        notes=notes + _notes(dataset, sweep, trained),
    )


def of_head(dataset: Dataset, found: Features, recipe: Recipe, head: LinearHead) -> Outcome:
    """Top-1 and top-5 of a published head on the features it is for."""
    weight, bias = head.weight[None], head.bias[None]
    heads = probe.Heads(weight=weight, bias=bias, weight_momentum=weight, bias_momentum=bias)
    rank, predicted = probe.classify(heads, 0, found.x, torch.from_numpy(found.y))
    at: dict[str, object] = {"head": head.origin.name, "feature": recipe.text()}
    arrays = {"target": found.y, "head": predicted.numpy().astype(np.int32)}
    return Outcome(
        scores=_pair(dataset, rank.numpy(), "head", "", at),
        predictions=arrays,
        deviations=tuple(left_out(len(found.skipped), dataset.test.name)),
        notes=head.notes,
    )


def _chosen(features: list[int], trained: Trained) -> int | None:
    """Of several recipes the one whose chosen head is best on the held-out images, None where none was chosen; of
    equals the one named first."""
    there = sorted(f for f in features if trained.chosen_head[f] >= 0)
    if not there:
        return None
    held = (trained.history[name][-1, there, trained.chosen_head[there]] for name in ("held_correct", "held_loss"))
    return there[probe.choose(*(values.tolist() for values in held))]


def _pair(dataset: Dataset, rank: np.ndarray, name: str, which: str, at: dict[str, object]) -> tuple[Score, Score]:
    top1, top5 = (_score(dataset, int((rank < k).sum()), len(rank), f"{name}_top{k}{which}", at) for k in (1, 5))
    return top1, top5


def _score(dataset: Dataset, right: int, n: int, metric: str, at: dict[str, object]) -> Score:
    interval = wilson_interval(right, n)
    return Score(
        dataset=dataset.name, split=dataset.test.name, metric=metric, value=right / n, n=n, at=at, interval=interval
    )


def _notes(dataset: Dataset, sweep: Sweep, trained: Trained) -> tuple[str, ...]:
    found = []
    if sweep.num_held:
        share = f"{100 * sweep.holdout:g} %" if sweep.num_held >= FEW else "too few for more than a rough choice"
        found.append(
            f"linear: the learning rate was chosen after the last epoch on {sweep.num_held} images of "
            f"{dataset.train.name} ({share}), which no head learnt from"
        )
    else:
        found.append("linear: no images held out, so that no learning rate was chosen apart from the reported split")
    edges = {0: "smallest", len(sweep.lrs) - 1: "largest"} if len(sweep.lrs) > 2 else {}
    for name, features in sweep.groups.items():
        f = _chosen(features, trained)
        if f is not None and (head := int(trained.chosen_head[f])) in edges:
            found.append(f"linear: {name} chose the {edges[head]} of its learning rates: more beyond it may be better")
    lost = np.argwhere(trained.diverged >= 0)
    if len(lost):
        some = [
            f"lr {sweep.lrs[h]:g} on {sweep.recipes[f].text()} in epoch {trained.diverged[f, h] + 1}"
            for f, h in lost[:5].tolist()
        ]
        more = f" and {len(lost) - len(some)} more" if len(lost) > len(some) else ""
        found.append(f"{len(lost)} heads diverged and count no longer: {', '.join(some)}{more}")
    return tuple(found)
