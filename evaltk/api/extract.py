"""Features of images, for use elsewhere: `evaltk.extract`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evaltk.api import data as data_of
from evaltk.api import subjects
from evaltk.api.preparing import Spec
from evaltk.api.subjects import Model, Subject
from evaltk.api.surroundings import in_python, settled, undisturbed
from evaltk.bench import Need
from evaltk.checkpoints.load import load
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.data import limits
from evaltk.data.galleries import Photographs
from evaltk.data.images import Split
from evaltk.data.options import DataOptions
from evaltk.errors import SettingsError, nearest
from evaltk.features.export import Extracted
from evaltk.machine import provenance
from evaltk.running.planning import Plan
from evaltk.running.runner import described
from evaltk.types import Recipe


def extract(
    model: Model,
    data: Any,
    *,
    part: str | None = None,
    recipe: Recipe | str | None = None,
    transform: Spec | None = None,
    name: str | None = None,
    device: str | None = None,
    data_name: str = "images",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int | None = None,
    skip_bad_images: int = 0,
) -> Extracted:
    """Features of the images of one split, in memory; ``.save("x.npz")`` writes them (also .parquet, .safetensors).

    A net in memory is left as it was, as by `evaltk.evaluate`. No files are left.

    Args:
        model, transform, name, device: as for `evaltk.evaluate`.
        data: as for `evaltk.evaluate`; besides, any folder of class folders or of images, or one PyTorch dataset.
        part: the split, ``train``, ``test`` ...; default: the one that scores are reported on, all images of one set.
        recipe: ``cls``, ``mean``, ``cls+mean`` or a `Recipe`; default: the class feature.
        data_name: name of a PyTorch dataset. limit: so many images of the split, balanced by class, drawn by `seed`.
        batch_size, workers, skip_bad_images: as on the command line.

    Raises: EvaltkError: what was wanted, what came, and what to do.
    """
    if isinstance(model, str | Path):
        model = load(str(model), ReadOptions())
    with undisturbed() as temporary:
        subject = subjects.of(model, transform, name=name, device=device)
        plan = Plan(
            checkpoints=(),
            protocols={},
            data=(),
            out=temporary,
            cache=temporary,
            seed=seed,
            device=device or "auto",
            images=subject.options,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            skip_bad_images=skip_bad_images,
        )
        images = split_of(data_of.any_images(data, DataOptions(seed=seed), name=data_name), part, limit, seed)
        with settled(), in_python():
            found = extracted(replace(plan, **(subject.own or {})), subject, images, _recipe(recipe))
        return replace(found, x=np.array(found.x))  # the folder that it is mapped from goes


def extracted(plan: Plan, subject: Subject, split: Split, recipe: Recipe) -> Extracted:
    """The features of a split, mapped from `plan.cache`. Raises: as `extract`."""
    need = Need(recipe=recipe)
    with subject.evaluating():
        bench = subject.ready(plan, ())
        bench.prepare(split, (need,))
        found = bench.features(split, need)
    made = provenance(str(bench.backbone.device), {})
    return Extracted(
        x=found.x,
        y=np.full_like(found.y, -1) if isinstance(split, Photographs) else found.y,
        ids=found.ids,
        key=found.key,
        skipped=found.skipped,
        classes=() if isinstance(split, Photographs) else split.classes,
        made={
            "checkpoint": described(subject.name, bench.checkpoint),
            "dataset": {"name": split.dataset, "split": split.name, "fingerprint": split.fingerprint},
            "notes": list(bench.checkpoint.notes),
            "made": {k: made[k] for k in ("versions", "git", "device", "date")},
        },
    )


def split_of(found: Any, name: str | None, limit: int | None, seed: int) -> Split:
    """One split of a dataset, or the split itself. Raises: SettingsError: no such split, no images."""
    if limit is not None and not isinstance(found, Split):
        found = limits.limited(found, limit, seed)
    splits = (found,) if isinstance(found, Split) else found.splits
    if not splits:
        wanted, do = "a dataset of images", "evaltk ls datasets"
        raise SettingsError(wanted=wanted, got=f"{found.name} ({found.KIND})", where="--data", do=do)
    known = {split.name: split for split in splits}
    if name is None:
        chosen = getattr(found, "test", splits[0])
    elif name in known:
        chosen = known[name]
    else:
        raise SettingsError(wanted="a split", got=repr(name), where="--part", do=nearest(name, known))
    if limit is not None and isinstance(found, Split):
        chosen = limits.limited_split(chosen, limit, seed)
    return chosen


def _recipe(given: Recipe | str | None) -> Recipe:
    if given is None or isinstance(given, Recipe):
        return given or Recipe()
    if given not in ("cls", "mean", "cls+mean"):
        do = nearest(given, ("cls", "mean", "cls+mean"))
        raise SettingsError(wanted="cls, mean, cls+mean or a Recipe", got=repr(given), where="recipe", do=do)
    return Recipe(tokens=given)  # type: ignore[arg-type]
