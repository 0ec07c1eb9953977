"""What a linear probe learns from and is judged on: held-out images, views, the cache entry of its training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaltk.bench import Bench, Extracts, Need
from evaltk.data.images import Dataset, Split
from evaltk.deviations import Deviation, DeviationKind, left_out
from evaltk.features.sweep_cache import Store
from evaltk.types import FeatureKey, Features, PixelView, Recipe, canonical
from protocols.linear import batches as probe_batches
from protocols.linear import training as probe_training
from protocols.linear.batches import Augmented, Cached
from protocols.linear.settings import PAPER_EPOCHS, Settings
from protocols.linear.training import Source

VERSION = 1  # rises when the numbers that training gives change


def rates(settings: Settings) -> tuple[float, ...]:
    """Base learning rates, rising, each once."""
    return tuple(sorted(set(settings.lr)))


def held_out(bench: Bench, dataset: Dataset, settings: Settings) -> np.ndarray:
    """Numbers of the training images that the learning rate is chosen on."""
    return probe_batches.hold_out(dataset.train.labels, settings.holdout, seed=bench.seed)


def views(bench: Bench, settings: Settings) -> dict[str, PixelView]:
    """The preprocessing of the images that are learnt from (``train``) and judged on (``eval``)."""
    transform = bench.transform("eval")
    return {
        "eval": transform.recorded(),
        "train": transform.recorded() if settings.fast else probe_batches.recorded(transform),
    }


def store(bench: Bench, dataset: Dataset, settings: Settings, recipes: tuple[Recipe, ...]) -> Store:
    """The cache entry of a training: named by all its numbers depend on."""
    view = views(bench, settings)
    asked = {
        "features": [r.text() for r in recipes],
        "lr": rates(settings),
        "epochs": settings.epochs,
        "batch": settings.batch,
        "holdout": settings.holdout,
        "seed": bench.seed,
        "skip": bench.extraction.skip_bad_images,
        "version": VERSION,
    }
    key = FeatureKey(
        sha256=bench.backbone.digest,
        dataset=f"{dataset.train.fingerprint}{dataset.train.stamp}{dataset.test.fingerprint}{dataset.test.stamp}",
        split=f"{dataset.train.name} to {dataset.test.name}",
        transform=f"train: {view['train'].text}; test: {view['eval'].text}",
        recipe=f"linear heads {canonical(asked)}",
        precision=bench.backbone.precision,
        position=bench.backbone.position,
        version=VERSION,
    )
    return Store(root=bench.cache, key=key)


def extracts(bench: Bench, dataset: Dataset, settings: Settings, recipes: tuple[Recipe, ...]) -> Extracts:
    """(split, needs) of the features asked for, in their order; without needs: images that are read while training."""
    needs = tuple(Need(recipe=r) for r in recipes)
    if store(bench, dataset, settings, recipes).done():
        return ((dataset.test, needs[:1]),)
    if settings.fast:
        return ((dataset.test, needs), (dataset.train, needs))
    held = held_out(bench, dataset, settings)
    judged = ((_held_split(dataset, held), needs),) if len(held) else ()
    return ((dataset.test, needs), *judged, (dataset.train, ()))


def _held_split(dataset: Dataset, held: np.ndarray) -> Split:
    return probe_batches.subset(dataset.train, held, f"{dataset.train.name}, {len(held)} held out")


def train(bench: Bench, dataset: Dataset, settings: Settings, recipes: tuple[Recipe, ...]) -> None:
    """Extract what is judged on, and learn; every process calls this."""
    needs = tuple(Need(recipe=r) for r in recipes)
    held = held_out(bench, dataset, settings)
    for split, needed in extracts(bench, dataset, settings, recipes):
        bench.prepare(split, needed)
    reported = [bench.features(dataset.test, need) for need in needs]
    make = _cached if settings.fast else _augmented
    source, judged = make(bench, dataset, settings, needs, held, [f.x.shape[1] for f in reported])
    sweep = probe_training.Sweep(
        recipes=recipes,
        lrs=rates(settings),
        num_classes=len(dataset.train.classes),
        epochs=settings.epochs,
        batch=settings.batch,
        seed=bench.seed,
    )
    where = store(bench, dataset, settings, recipes)
    probe_training.train(sweep, source, reported, judged, store=where, device=bench.device)


def _cached(
    bench: Bench, dataset: Dataset, settings: Settings, needs: tuple[Need, ...], held: np.ndarray, widths: list[int]
) -> tuple[Source, list[Features]]:
    found = tuple(bench.features(dataset.train, need) for need in needs)
    names = {dataset.train.image_id(i) for i in held.tolist()}
    out = np.array([name in names for name in found[0].ids], dtype=bool)
    ids = tuple(name for name in found[0].ids if name in names)
    judged = [replace(f, x=np.array(f.x[out]), y=f.y[out], ids=ids) for f in found] if len(ids) else []
    source = Cached(
        features=found,
        rows=np.flatnonzero(~out),
        batch=settings.batch,
        seed=bench.seed,
        device=bench.device,
        bad=_numbers(dataset.train, found[0].skipped),
    )
    return source, judged


def _augmented(
    bench: Bench, dataset: Dataset, settings: Settings, needs: tuple[Need, ...], held: np.ndarray, widths: list[int]
) -> tuple[Source, list[Features]]:
    judged: list[Features] = []
    bad: set[int] = set()
    if len(held):
        split = _held_split(dataset, held)
        judged = [bench.features(split, need) for need in needs]
        bad = _numbers(dataset.train, judged[0].skipped)
    source = Augmented(
        backbone=bench.backbone,
        split=dataset.train,
        rows=np.setdiff1d(np.arange(len(dataset.train)), held),
        transform=bench.transform("eval"),
        recipes=tuple(need.recipe for need in needs),
        widths=tuple(widths),
        batch=settings.batch,
        seed=bench.seed,
        how=bench.extraction,
        bad=bad,
    )
    return source, judged


def _numbers(split: Split, names: tuple[str, ...]) -> set[int]:
    """The numbers of the images with these names."""
    return {i for i in range(len(split)) if split.image_id(i) in names} if names else set()


def notes(settings: Settings) -> tuple[str, ...]:
    """What a reader must know of how the heads were trained."""
    return (f"{settings.epochs} epochs, {settings.batch} images a step, {len(rates(settings))} learning rates",)


def deviations(
    bench: Bench, dataset: Dataset, settings: Settings, recipes: tuple[Recipe, ...]
) -> tuple[Deviation, ...]:
    """How the training of the heads deviates from the published one."""
    found: list[Deviation] = []
    if settings.fast:
        text = "--linear.fast: learnt from features without augmentation, another protocol, usually lower"
        found.append(Deviation(kind=DeviationKind.NO_AUGMENTATION, text=text))
    if settings.epochs != PAPER_EPOCHS:
        text = f"{settings.epochs} epochs where the protocol has {PAPER_EPOCHS}"
        found.append(Deviation(kind=DeviationKind.EPOCHS, text=text))
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.train.classes))
    lacking = [name for name, count in zip(dataset.train.classes, counts, strict=True) if not count]
    if lacking:
        text = f"no training images of {len(lacking)} classes: {', '.join(lacking[:5])}"
        found.append(Deviation(kind=DeviationKind.EMPTY_CLASSES, text=text))
    found += left_out(len(bench.features(dataset.test, Need(recipe=recipes[0])).skipped), dataset.test.name)
    return tuple(found)
