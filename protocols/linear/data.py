"""A linear probe of one net on one dataset: all its training depends on, its features, its place in the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evaltk.bench import Bench, Extracts, Need
from evaltk.data.images import Dataset, Split
from evaltk.data.subsets import hold_out, subset
from evaltk.features.cache import cache_key, splits_key
from evaltk.features.sweep_cache import Store
from evaltk.types import Features, PixelView, Recipe, canonical
from protocols.linear import batches, training
from protocols.linear.settings import Settings, dino_rule

VERSION = 2  # raised whenever training gives other numbers; 2: first weights drawn the same on every processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that training and reporting the heads depend on, made once by `job`.

    Attributes:
        recipes: F features. lrs: base learning rates, rising, each once.
        held: numbers of the training images that the learning rate is chosen on, rising.
        views: how images are made: those trained on (``train``) and those evaluated (``eval``).
        store: where the training lies in the cache.
    """

    bench: Bench
    dataset: Dataset
    settings: Settings
    recipes: tuple[Recipe, ...]
    lrs: tuple[float, ...]
    held: np.ndarray
    views: dict[str, PixelView]
    store: Store

    @property
    def needs(self) -> tuple[Need, ...]:
        """What to extract of every split that heads are evaluated on."""
        return tuple(Need(recipe=recipe) for recipe in self.recipes)

    def held_split(self) -> Split:
        """The held-out images as a split of their own."""
        train = self.dataset.train
        return subset(train, self.held, f"{train.name}, {len(self.held)} held out")

    def reported(self) -> Features:
        """The first feature of the reported split: for its labels and names."""
        return self.bench.features(self.dataset.test, self.needs[0])


def recipes_of(bench: Bench, settings: Settings) -> tuple[Recipe, ...]:
    """The features that heads are trained on: the one the user chose, else as the settings and the family have it."""
    if bench.images.feature is not None:
        return (Recipe(tokens=bench.images.feature),)
    return settings.recipes(bench.checkpoint.arch, own=bench.checkpoint.linear)


def columns_of(bench: Bench) -> tuple[dict[str, Recipe], str]:
    """({column: its feature}, what the second is, in words) of Lin.[C], the class feature, and Lin.[D]."""
    checkpoint, chosen = bench.checkpoint, bench.images.feature
    if chosen is not None:
        return {"C": Recipe(tokens=chosen), "D": Recipe(tokens=chosen)}, f"{chosen}, as --feature says"
    if checkpoint.linear is not None:
        words = f"{checkpoint.linear.text()}, as the linear probe of {checkpoint.family}'s code"
        return {"C": Recipe(), "D": checkpoint.linear}, words
    recipe, words = dino_rule(checkpoint.arch)
    return {"C": Recipe(), "D": recipe}, words


def job(bench: Bench, dataset: Dataset, settings: Settings) -> Job:
    """The probe that settings stand for. Reads no image."""
    train, test = dataset.train, dataset.test
    recipes, lrs = recipes_of(bench, settings), tuple(sorted(set(settings.lr)))
    transform = bench.transform("eval")
    view = transform.recorded()
    views = {"eval": view, "train": view if settings.fast else batches.recorded(transform)}
    asked = {
        "features": [r.text() for r in recipes],
        "lr": lrs,
        "epochs": settings.epochs,
        "batch": settings.batch,
        "holdout": settings.holdout,
        "seed": bench.seed,
        "skip": bench.extraction.skip_bad_images,
        "version": VERSION,
    }
    key = cache_key(
        bench.backbone,
        **splits_key(train, test),
        transform=f"train: {views['train'].text}; test: {views['eval'].text}",
        recipe=f"linear heads {canonical(asked)}",
        version=VERSION,
    )
    return Job(
        bench=bench,
        dataset=dataset,
        settings=settings,
        recipes=recipes,
        lrs=lrs,
        held=hold_out(train.labels, settings.holdout, seed=bench.seed),
        views=views,
        store=Store(root=bench.cache, key=key),
    )


def extracts(job: Job) -> Extracts:
    """(split, needs) of the features asked for, in their order; without needs: images that are read while training."""
    train, test = job.dataset.train, job.dataset.test
    if job.store.done():
        return ((test, job.needs[:1]),)
    if job.settings.fast:
        return ((test, job.needs), (train, job.needs))
    held = ((job.held_split(), job.needs),) if len(job.held) else ()
    return ((test, job.needs), *held, (train, ()))


def train(job: Job) -> None:
    """Extract what heads are evaluated on, and train; every process calls this. Raises: as `linear.run`."""
    for split, needs in extracts(job):
        job.bench.prepare(split, needs)
    reported = [job.bench.features(job.dataset.test, need) for need in job.needs]
    if job.settings.fast:
        source, held = _cached(job)
    else:
        source, held = _augmented(job, widths=tuple(f.x.shape[1] for f in reported))
    sweep = training.Sweep(
        recipes=job.recipes,
        lrs=job.lrs,
        num_classes=len(job.dataset.train.classes),
        epochs=job.settings.epochs,
        batch=job.settings.batch,
        seed=job.bench.seed,
    )
    training.train(sweep, source, reported, held, store=job.store, device=job.bench.device)


def _cached(job: Job) -> tuple[training.Source, list[Features]]:
    """(features of the training images without the held-out ones, those of the held-out ones)."""
    train = job.dataset.train
    features = tuple(job.bench.features(train, need) for need in job.needs)
    names = {train.image_id(i) for i in job.held.tolist()}
    out = np.array([name in names for name in features[0].ids], dtype=bool)
    ids = tuple(name for name in features[0].ids if name in names)
    held = [replace(f, x=np.array(f.x[out]), y=f.y[out], ids=ids) for f in features] if len(ids) else []
    source = batches.Cached(
        features=features,
        rows=np.flatnonzero(~out),
        batch=job.settings.batch,
        seed=job.bench.seed,
        device=job.bench.device,
        skipped=_numbers(train, features[0].skipped),
    )
    return source, held


def _augmented(job: Job, *, widths: tuple[int, ...]) -> tuple[training.Source, list[Features]]:
    """(random crops of the training images without the held-out ones, features of the held-out ones)."""
    train, bench = job.dataset.train, job.bench
    held: list[Features] = []
    if len(job.held):
        split = job.held_split()
        held = [bench.features(split, need) for need in job.needs]
    source = batches.Augmented(
        backbone=bench.backbone,
        split=train,
        rows=np.setdiff1d(np.arange(len(train)), job.held),
        transform=bench.transform("eval"),
        recipes=job.recipes,
        widths=widths,
        batch=job.settings.batch,
        seed=bench.seed,
        how=bench.extraction,
        skipped=_numbers(train, held[0].skipped) if held else frozenset(),
    )
    return source, held


def _numbers(split: Split, names: tuple[str, ...]) -> frozenset[int]:
    """The numbers of the images with these names."""
    return frozenset(i for i in range(len(split)) if split.image_id(i) in names) if names else frozenset()
