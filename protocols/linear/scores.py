"""The scores of linear heads: chosen on held-out training images, best on the reported split, and the whole sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from evaltk.bench import Outcome
from evaltk.data.images import Dataset
from evaltk.deviations import Deviation, DeviationKind, left_out
from evaltk.metrics.scores import calibration_error, share
from evaltk.types import Features, Recipe, Score
from protocols.linear import heads as probe
from protocols.linear.data import Job, columns_of
from protocols.linear.published_head import LinearHead
from protocols.linear.settings import PAPER_EPOCHS
from protocols.linear.training import Trained

FEW = 100  # held-out images below which a choice among learning rates is rough


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sweep:
    """A job that is trained: its outcome, and the columns reported: {name: numbers of recipes}."""

    job: Job
    trained: Trained
    groups: Mapping[str, list[int]]

    def at(self, f: int, h: int, epoch: int) -> dict[str, object]:
        """The settings of a head after `epoch` (0-based)."""
        recipe = self.job.recipes[f]
        pool = "mean" if "mean" in recipe.tokens else "none"
        return {"lr": self.job.lrs[h], "blocks": recipe.last, "pool": pool, "epoch": epoch + 1}


def of_job(job: Job) -> Outcome:
    """Scores of every column, then top-1 of every head after the last epoch; predictions of the heads named.

    Raises: StorageError: the cache entry is damaged.
    """
    trained, reported, dataset = Trained.read(job.store), job.reported(), job.dataset
    sweep = _Sweep(job=job, trained=trained, groups=_groups(job))
    last = len(trained.history["test_correct"]) - 1
    held = f"{len(job.held)} images of {dataset.train.name}, held out"
    scores: list[Score] = []
    errors: list[Score] = []
    arrays: dict[str, np.ndarray] = {"target": reported.y}
    for name, features in sweep.groups.items():
        f = _chosen(features, trained)
        if f is not None:
            at = sweep.at(f, int(trained.chosen_head[f]), last) | {"chosen_on": held}
            scores += _pair(dataset, trained.chosen_rank[f], name, "", at)
            arrays[f"{name}_last"] = trained.chosen_predicted[f].astype(np.int32)
            if _known(confidence := trained.chosen_confidence[f]):
                errors += _calibration(dataset, trained.chosen_rank[f], confidence, f"{name}_ece", at)
                arrays[f"{name}_last_confidence"] = confidence
        f = max(features, key=lambda i: (int((trained.best_rank[i] == 0).sum()), -i))
        at = sweep.at(f, int(trained.best_head[f]), int(trained.best_epoch[f])) | {"chosen_on": "the reported split"}
        scores += _pair(dataset, trained.best_rank[f], name, "_best_epoch", at)
        arrays[f"{name}_best"] = trained.best_predicted[f].astype(np.int32)
        if _known(confidence := trained.best_confidence[f]):
            errors += _calibration(dataset, trained.best_rank[f], confidence, f"{name}_ece_best_epoch", at)
            arrays[f"{name}_best_confidence"] = confidence
    for f in range(len(job.recipes)):
        for h in range(len(job.lrs)):
            correct = trained.history["test_correct"][-1, f, h]
            if np.isfinite(correct):
                scores.append(share(dataset, "top1", int(correct), len(reported.y), sweep.at(f, h, last)))
    arrays["top1_by_epoch"] = (trained.history["test_correct"] / len(reported.y)).astype(np.float32)  # [E, F, H]
    skipped = left_out(int(trained.skipped), dataset.train.name)
    return Outcome(
        scores=(*scores, *errors),
        predictions=arrays,
        deviations=(*_deviations(job, reported), *skipped),
        notes=_training_notes(job) + _notes(sweep),
        views=job.views,
    )


def _groups(job: Job) -> dict[str, list[int]]:
    columns, _ = columns_of(job.bench)
    groups = {name: [job.recipes.index(recipe)] for name, recipe in columns.items() if recipe in job.recipes}
    if job.settings.blocks is not None or job.settings.pool is not None:
        groups["grid"] = list(range(len(job.recipes)))
    return groups


def of_head(dataset: Dataset, found: Features, recipe: Recipe, head: LinearHead) -> Outcome:
    """Top-1 and top-5 of a published head on the features it is for."""
    weight, bias = head.weight[None], head.bias[None]
    heads = probe.LinearClassifiers(weight=weight, bias=bias, weight_momentum=weight, bias_momentum=bias)
    rank, predicted, confidence = probe.classify(heads, 0, found.x, torch.from_numpy(found.y))
    at: dict[str, object] = {"head": head.origin.name, "feature": recipe.text()}
    arrays = {
        "target": found.y,
        "head": predicted.numpy().astype(np.int32),
        "head_confidence": confidence.numpy(),
    }
    error = _calibration(dataset, rank.numpy(), confidence.numpy(), "head_ece", at)
    return Outcome(
        scores=(*_pair(dataset, rank.numpy(), "head", "", at), *error),
        predictions=arrays,
        deviations=tuple(left_out(len(found.skipped), dataset.test.name)),
        notes=head.notes,
    )


def _chosen(features: list[int], trained: Trained) -> int | None:
    """Of several recipes the one whose chosen head is best on the held-out images, None where none was chosen; of
    equals the one named first."""
    alive = sorted(f for f in features if trained.chosen_head[f] >= 0)
    if not alive:
        return None
    held = (trained.history[name][-1, alive, trained.chosen_head[alive]] for name in ("held_correct", "held_loss"))
    return alive[probe.choose(*(values.tolist() for values in held))]


def _pair(dataset: Dataset, rank: np.ndarray, name: str, which: str, at: dict[str, object]) -> tuple[Score, Score]:
    top1, top5 = (share(dataset, f"{name}_top{k}{which}", int((rank < k).sum()), len(rank), at) for k in (1, 5))
    return top1, top5


def _known(confidence: np.ndarray) -> bool:
    return not np.isnan(confidence).any()


def _calibration(
    dataset: Dataset, rank: np.ndarray, confidence: np.ndarray, metric: str, at: dict[str, object]
) -> tuple[Score]:
    """The calibration error of softmax probabilities [N] of predictions that are right where rank [N] is 0."""
    return (calibration_error(dataset, metric, confidence, rank == 0, at),)


def _training_notes(job: Job) -> tuple[str, ...]:
    return (
        f"Lin.[C]: class token of the last block; Lin.[D]: {columns_of(job.bench)[1]}",
        f"{job.settings.epochs} epochs, {job.settings.batch} images a step, {len(job.lrs)} learning rates",
    )


def _notes(sweep: _Sweep) -> tuple[str, ...]:
    job, trained = sweep.job, sweep.trained
    found = []
    if len(job.held):
        amount = f"{100 * job.settings.holdout:g} %" if len(job.held) >= FEW else "too few for more than a rough choice"
        found.append(
            f"linear: the learning rate was chosen after the last epoch on {len(job.held)} images of "
            f"{job.dataset.train.name} ({amount}), not trained on"
        )
    else:
        found.append("linear: no images held out, so that no learning rate was chosen apart from the reported split")
    edges = {0: "smallest", len(job.lrs) - 1: "largest"} if len(job.lrs) > 2 else {}
    for name, features in sweep.groups.items():
        f = _chosen(features, trained)
        if f is not None and (head := int(trained.chosen_head[f])) in edges:
            found.append(f"linear: {name} chose the {edges[head]} of its learning rates: more beyond it may be better")
    if not _known(trained.best_confidence):
        found.append("linear: no calibration error, as this training was cached without confidences")
    lost = np.argwhere(trained.diverged >= 0)
    if len(lost):
        some = [
            f"lr {job.lrs[h]:g} on {job.recipes[f].text()} in epoch {trained.diverged[f, h] + 1}"
            for f, h in lost[:5].tolist()
        ]
        more = f" and {len(lost) - len(some)} more" if len(lost) > len(some) else ""
        found.append(f"{len(lost)} heads diverged and count no longer: {', '.join(some)}{more}")
    return tuple(found)


def _deviations(job: Job, reported: Features) -> tuple[Deviation, ...]:
    """How the training of the heads deviates from the published one."""
    settings, train = job.settings, job.dataset.train
    deviations: list[Deviation] = []
    if settings.fast:
        text = "--linear.fast: trained on cached features without augmentation; a different protocol, usually lower"
        deviations.append(Deviation(kind=DeviationKind.NO_AUGMENTATION, text=text))
    if settings.epochs != PAPER_EPOCHS:
        text = f"{settings.epochs} epochs where the protocol has {PAPER_EPOCHS}"
        deviations.append(Deviation(kind=DeviationKind.EPOCHS, text=text))
    counts = np.bincount(train.labels, minlength=len(train.classes))
    lacking = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    if lacking:
        text = f"no training images of {len(lacking)} classes: {', '.join(lacking[:5])}"
        deviations.append(Deviation(kind=DeviationKind.EMPTY_CLASSES, text=text))
    return (*deviations, *left_out(len(reported.skipped), job.dataset.test.name))
