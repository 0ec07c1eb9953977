"""A fine-tuning of one net on one dataset: all it depends on, its place in the cache, and its scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from evaltk.bench import Bench, Outcome
from evaltk.data import transforms
from evaltk.data.images import Dataset
from evaltk.data.subsets import hold_out, subset
from evaltk.data.transforms import Transform
from evaltk.deviations import Deviation, DeviationKind, left_out
from evaltk.features import sweep_cache
from evaltk.features.cache import cache_key, splits_key
from evaltk.features.sweep_cache import Store
from evaltk.metrics.classification import EQUAL
from evaltk.metrics.scores import bootstrap_bounds, calibration_error, mean_of_classes, share
from evaltk.seeding import derive
from evaltk.types import Score, canonical
from protocols.finetune import batches as finetune_batches
from protocols.finetune import training as finetune_training
from protocols.finetune.batches import Views
from protocols.finetune.recipe import Tuning
from protocols.finetune.settings import Settings

VERSION = 2  # raised whenever training gives other numbers; 2: first weights drawn the same on every processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All a fine-tuning depends on.

    `held`: numbers of the training images kept apart. `apart`: what departs from the recipe, in words.
    """

    bench: Bench
    dataset: Dataset
    metric: Literal["top1", "mean_per_class"]
    recipe: str
    tuning: Tuning
    apart: tuple[str, ...]
    transform: Transform
    held: np.ndarray
    store: Store


def job(bench: Bench, dataset: Dataset, settings: Settings) -> Job:
    """The fine-tuning that settings stand for. Raises: SettingsError: they do not go together."""
    arch, chosen = bench.checkpoint.arch, bench.images
    recipe, tuning, apart = settings.tuning(dataset.name, arch)
    transform = transforms.view(
        "eval", arch.img_size, bench.checkpoint.mean, bench.checkpoint.std, resize=chosen.resize, crop=chosen.crop,
        interpolation=chosen.interpolation or tuning.interpolation,
    )  # fmt: skip
    metric = dataset.metric if settings.metric == "auto" else settings.metric
    train, test = dataset.train, dataset.test
    asked = {
        "tuning": asdict(tuning), "metric": metric, "holdout": settings.holdout, "seed": bench.seed,
        "skip": bench.extraction.skip_bad_images, "version": VERSION,
    }  # fmt: skip
    key = cache_key(
        bench.backbone,
        **splits_key(train, test),
        transform=f"train: {finetune_batches.text(transform, tuning)}; test: {transform.text()}",
        recipe=f"fine-tuned nets {canonical(asked)}",
        version=VERSION,
    )
    return Job(
        bench=bench,
        dataset=dataset,
        metric=metric,
        recipe=recipe,
        tuning=tuning,
        apart=apart,
        transform=transform,
        held=hold_out(train.labels, settings.holdout, seed=bench.seed),
        store=Store(root=bench.cache, key=key, what="a fine-tuning"),
    )


def train(job: Job) -> None:
    """Train; every process calls this. Raises: as `finetune.run`."""

    bench, train = job.bench, job.dataset.train
    views = Views(
        split=train,
        rows=np.setdiff1d(np.arange(len(train)), job.held),
        transform=job.transform,
        tuning=job.tuning,
        seed=bench.seed,
        how=bench.extraction,
    )
    held = subset(train, job.held, f"{train.name}, {len(job.held)} held out") if len(job.held) else None
    task = finetune_training.Task(
        weights=bench.checkpoint.weights,
        backbone=bench.backbone,
        num_classes=len(train.classes),
        tuning=job.tuning,
        views=views,
        test=job.dataset.test,
        held=held,
        metric=job.metric,
        seed=bench.seed,
    )
    finetune_training.tune(task, job.store)


def outcome(job: Job) -> Outcome:
    """The figures of a fine-tuning that has ended. Raises: StorageError: its cache entry is damaged."""
    found = job.store.read_arrays(sweep_cache.OUTCOME, finetune_training.OUTCOME, finetune_training.LATER)
    lrs, epochs, target = job.tuning.lr, job.tuning.epochs, job.dataset.test.labels
    best, last = int(found["best_lr"]), epochs - 1
    at = {"recipe": job.recipe, "lr": lrs[best], "epoch": int(found["best_epoch"]) + 1, "metric": job.metric}
    scores = list(_scores(job, found["best_rank"], "_best_epoch", at | {"chosen_on": "the reported split"}))
    arrays = {"target": target, "best": found["best_predicted"].astype(np.int32)}
    errors = list(_calibration(job, found.get("best_confidence"), found["best_rank"], "_best_epoch", scores[0].at))
    if errors:
        arrays["best_confidence"] = found["best_confidence"]
    chosen = _chosen(found["held_score"][:, last])
    for h, lr in enumerate(lrs):
        if found["diverged"][h] < 0:
            told = {"recipe": job.recipe, "lr": lr, "epoch": epochs, "metric": job.metric}
            if h == chosen:
                on = {"chosen_on": f"{len(job.held)} images of {job.dataset.train.name}, held out"}
                scores += _scores(job, found["last_rank"][h], "_chosen_lr", told | on)
                arrays["chosen"] = found["last_predicted"][h].astype(np.int32)
                if "last_confidence" in found:
                    sure = found["last_confidence"][h]
                    if more := list(_calibration(job, sure, found["last_rank"][h], "_chosen_lr", told | on)):
                        arrays["chosen_confidence"] = sure
                        errors += more
            scores += _scores(job, found["last_rank"][h], "", told)
    arrays |= {name: found[name] for name in ("train_loss", "test_score", "held_score")}
    return Outcome(
        scores=(*scores, *errors),
        predictions=arrays,
        deviations=tuple(_deviations(job, found)),
        notes=tuple(_notes(job, found)),
        views={
            "train": finetune_batches.recorded(job.transform, job.tuning),
            "eval": job.transform.recorded(),
        },
    )


def _calibration(
    job: Job, confidence: np.ndarray | None, rank: np.ndarray, which: str, at: Mapping[str, object]
) -> Iterator[Score]:
    """The calibration error over the images that can be read; none where an older training kept no confidences."""
    readable = rank >= 0
    if confidence is not None and np.isfinite(confidence[readable]).all():
        yield calibration_error(job.dataset, f"ece{which}", confidence[readable], rank[readable] == 0, at)


def _chosen(held: np.ndarray) -> int | None:
    """The learning rate that is best on the held-out images after the last epoch, the lowest of equal ones."""
    return int(np.argmax(held >= np.nanmax(held) - EQUAL)) if np.isfinite(held).any() else None


def _scores(job: Job, rank: np.ndarray, which: str, at: dict[str, object]) -> Iterator[Score]:
    """Top-1, top-5 and the mean of the classes' recalls, over the images that can be read."""
    readable = rank >= 0
    n, dataset = int(readable.sum()), job.dataset
    for k in (1, 5):
        yield share(dataset, f"top{k}{which}", int((rank[readable] < k).sum()), n, at)
    rows = np.stack([dataset.test.labels[readable], rank[readable] == 0], axis=1)
    rng = np.random.default_rng(derive(job.bench.seed, "finetune", dataset.name, which))
    yield Score(
        dataset=dataset.name,
        split=dataset.test.name,
        metric=f"mean_per_class{which}",
        value=float(mean_of_classes(rows[None])[0]),
        n=n,
        at=at,
        interval=bootstrap_bounds(rows, mean_of_classes, rng=rng),
    )


def _notes(job: Job, found: dict[str, np.ndarray]) -> Iterator[str]:
    tuning = job.tuning
    rates = ", ".join(f"{lr:g}" for lr in tuning.lr)
    rates += f", times {tuning.batch} / 512" if tuning.scale_lr else ""
    yield f"fine-tuned by the {job.recipe} recipe: {tuning.epochs} epochs, {tuning.batch} images a step, lr {rates}"
    lost = [f"lr {tuning.lr[h]:g} in epoch {e + 1}" for h, e in enumerate(found["diverged"].tolist()) if e >= 0]
    if lost:
        yield f"training diverged and counts no longer with {', '.join(lost)}"


def _deviations(job: Job, found: dict[str, np.ndarray]) -> Iterator[Deviation]:
    train = job.dataset.train
    if job.apart:
        text = f"fine-tuning apart from the recipe: {'; '.join(job.apart)}"
        yield Deviation(kind=DeviationKind.RECIPE, text=text)
    if len(job.held):
        text = f"{len(job.held)} images of {train.name} held out, not trained on"
        yield Deviation(kind=DeviationKind.HELD_OUT, text=text)
    yield from left_out(int((found["best_rank"] < 0).sum()), job.dataset.test.name)
    if len(found["bad"]):
        text = f"{len(found['bad'])} unreadable images of {train.name}, replaced by others of their batch"
        yield Deviation(kind=DeviationKind.UNREADABLE_IMAGES, text=text)
