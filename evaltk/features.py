"""Extract features once: in shards, resumable, shared over processes, one forward pass for all recipes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaltk import distributed, progress
from evaltk.backbone import Backbone
from evaltk.datasets.transforms import Transform
from evaltk.errors import DataError, SettingsError
from evaltk.feature_store import SHARD, Entry
from evaltk.images import Split
from evaltk.types import EXTRACTION_VERSION, Arch, FeatureKey, Features, Recipe

Item = tuple[int, np.ndarray | None, str]  # index, pixels or None, what was wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """How to extract; none of it changes what comes out beyond rounding.

    Attributes:
        batch_size: images a forward pass, None: by the net's size. workers: decoding processes, None: by the machine.
        skip_bad_images: how many unreadable images may be left out of a split.
        shard: images written at a time.
    """

    batch_size: int | None = None
    workers: int | None = None
    skip_bad_images: int = 0
    shard: int = SHARD


def key_of(backbone: Backbone, split: Split, transform: Transform, recipe: Recipe) -> FeatureKey:
    """All that the features of this split depend on."""
    return FeatureKey(
        sha256=backbone.digest,
        dataset=f"{split.fingerprint}{split.stamp}",
        split=split.name,
        transform=transform.text(),
        recipe=recipe.text(),
        precision=backbone.precision,
        position=backbone.position,
        version=EXTRACTION_VERSION,
    )


def extract(
    backbone: Backbone,
    split: Split,
    transform: Transform,
    recipes: Sequence[Recipe],
    *,
    cache: Path,
    how: Extraction | None = None,
) -> dict[Recipe, Features]:
    """Features of a split for each recipe, from the cache where they are there.

    Args:
        recipes: what to keep of the tokens; all that are missing share one forward pass.
        cache: root folder of the feature cache.

    Raises:
        DataError: an unreadable image beyond those allowed (it is named), features that are not finite.
        StorageError: no room or right to write; the shards finished so far are kept.
    """
    how = how or Extraction()
    if how.batch_size is not None and how.batch_size < 1:
        raise SettingsError(wanted="at least 1", got=str(how.batch_size), where="--batch-size", do="mend the flag")
    _check_empty(split, how.skip_bad_images)
    entries = {r: Entry(root=cache, key=key_of(backbone, split, transform, r)) for r in recipes}
    missing = {r: e for r, e in entries.items() if not e.done()}
    if missing:
        _fill(_Job(backbone=backbone, split=split, transform=transform, how=how), missing)
    found = {r: entry.read(split) for r, entry in entries.items()}
    for features in found.values():
        if len(features.skipped) > how.skip_bad_images:
            raise _too_many(split, len(features.skipped), how.skip_bad_images, features.skipped[0])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One pass over one split."""

    backbone: Backbone
    split: Split
    transform: Transform
    how: Extraction

    def indices(self, number: int, shard: int) -> range:
        """The images of shard `number`."""
        return range(number * shard, min((number + 1) * shard, len(self.split)))


def _fill(job: _Job, missing: dict[Recipe, Entry]) -> None:
    """Make the shards that lack, this process its share, and join them."""
    split, how = job.split, job.how
    wanted = {"batch_size": how.batch_size or auto_batch(job.backbone), "shard": how.shard}
    plans = [wanted]
    if distributed.is_main():
        plans = [entry.plan(wanted, fixed=how.batch_size is not None) for entry in missing.values()]
        if any(plan != plans[0] for plan in plans):  # begun apart with other sizes: begin anew together
            plans = [entry.plan(plans[0], fixed=True) for entry in missing.values()]
    plan = distributed.broadcast_object(plans[0])
    assert isinstance(plan, dict)
    num_shards = math.ceil(len(split) / plan["shard"])
    mine = range(distributed.rank(), num_shards, distributed.world_size())
    todo = [n for n in mine if not all(e.has_shard(n) for e in missing.values())]
    total, ready = (sum(len(job.indices(n, plan["shard"])) for n in some) for some in (mine, set(mine) - set(todo)))
    bad = 0
    with progress.bar(f"{split.dataset} {split.name}", total, done=ready) as advance:
        for number, items, rows in _forward(job, tuple(missing), todo, plan, advance):
            bad += len(items) - len(rows[0][1])
            if bad > how.skip_bad_images:
                name, message = next((split.image_id(i), m) for i, p, m in items if p is None)
                raise _too_many(split, bad, how.skip_bad_images, name, message)
            for entry, (x, kept) in zip(missing.values(), rows, strict=True):
                entry.write_shard(number, x, kept)
    distributed.barrier()
    if distributed.is_main():
        for entry in missing.values():
            entry.finish(num_shards, split.labels)
    distributed.barrier()


def _forward(
    job: _Job, recipes: tuple[Recipe, ...], todo: list[int], plan: dict[str, int], advance: progress.Advance
) -> Iterator[tuple[int, list[Item], list[tuple[np.ndarray, np.ndarray]]]]:
    """For each shard in `todo`: its number, its items (without pixels) and, a recipe, (x [n, D], kept [n])."""
    backbone, split, transform = job.backbone, job.split, job.transform
    batches, owner = [], []
    for number in todo:
        indices, size = job.indices(number, plan["shard"]), plan["batch_size"]
        parts = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
        batches += parts
        owner += [number] * len(parts)
    items: list[Item] = []
    chunks: list[list[np.ndarray]] = [[] for _ in recipes]
    kept: list[int] = []
    for position, batch in enumerate(_loader(job, batches)):
        good = [(i, p) for i, p, _ in batch if p is not None]
        items += [(i, None if p is None else p[:0], message) for i, p, message in batch]
        if good:
            pixels = torch.from_numpy(np.stack([p for _, p in good])).to(backbone.device, non_blocking=True)
            for chunk, x in zip(chunks, backbone.features(transform.normalise(pixels), recipes), strict=True):
                chunk.append(_finite(x, split, [i for i, _ in good]))
            kept += [i for i, _ in good]
        advance(len(batch))
        if position + 1 == len(batches) or owner[position + 1] != owner[position]:
            width = [c[0].shape[1] if c else 0 for c in chunks]
            rows = [
                np.concatenate(c) if c else np.zeros((0, w), np.float32) for c, w in zip(chunks, width, strict=True)
            ]
            yield owner[position], items, [(x, np.asarray(kept, dtype=np.int64)) for x in rows]
            items, chunks, kept = [], [[] for _ in recipes], []


def _finite(x: torch.Tensor, split: Split, indices: list[int]) -> np.ndarray:
    bad = ~torch.isfinite(x).all(dim=1)
    if bool(bad.any()):
        name = split.image_id(indices[int(bad.nonzero()[0])])
        raise DataError(
            wanted="finite features",
            got=f"NaN or infinity in {int(bad.sum())} of {len(x)}",
            where=f"{split.dataset} {split.name}, image {name}",
            do="try --precision fp32; if it stays, the checkpoint is damaged or diverged",
        )
    return x.cpu().numpy()


class _Images(TorchDataset):
    """Decoded and cropped images; an unreadable one comes as a message instead of ending the worker."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        try:
            return index, self.transform.pixels(self.split.open(index)), ""
        except DataError as error:
            return index, None, error.got


def _as_is(items: list[Item]) -> list[Item]:
    return items


def _loader(job: _Job, batches: list[list[int]]) -> DataLoader:
    split, workers = job.split, job.how.workers
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = max(1, cores // distributed.world_size())
        workers = 0 if split.pixels is not None or len(split) < SHARD else min(16, share)
    return DataLoader(_Images(split, job.transform), batch_sampler=batches, num_workers=workers, collate_fn=_as_is)


def auto_batch(backbone: Backbone) -> int:
    """A batch size by the number of tokens an image makes: enough to fill the device, little enough to fit."""
    arch: Arch = backbone.arch
    tokens = (arch.img_size // arch.patch_size) ** 2 + 1
    budget = 16_384 if backbone.device.type == "cpu" else 131_072
    return int(max(8, min(512, 2 ** math.floor(math.log2(budget / tokens))))) if tokens < budget else 8


def _check_empty(split: Split, allowed: int) -> None:
    if len(split.empty) > allowed:
        raise _too_many(split, len(split.empty), allowed, split.empty[0], "an empty file")


def _too_many(split: Split, count: int, allowed: int, name: str, message: str = "") -> DataError:
    return DataError(
        wanted=f"at most {allowed} unreadable images in {split.dataset} {split.name}",
        got=f"{count}" + (f" ({message})" if message else ""),
        where=(split.root or Path()) / name,
        do="restore the file, or allow some to be left out with --skip-bad-images N; finished shards are kept",
    )
