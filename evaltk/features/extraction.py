"""Extract features once: in shards, resumable, shared over processes, one forward pass for all recipes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaltk import distributed, progress
from evaltk.data import loading as decoding
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, SettingsError
from evaltk.features.cache import SHARD, Entry
from evaltk.models.backbone import Backbone
from evaltk.types import EXTRACTION_VERSION, Arch, FeatureKey, Features, Recipe

# Its number, what was unreadable, the indices kept [n], and x [n, D] for each recipe.
Shard = tuple[int, list[tuple[int, str]], np.ndarray, list[np.ndarray]]


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

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--batch-size", self.batch_size, 1),
            ("--workers", self.workers, 0),
            ("--skip-bad-images", self.skip_bad_images, 0),
            ("shard", self.shard, 1),
        ):
            if value is not None and value < least:
                raise SettingsError(wanted=f"at least {least}", got=str(value), where=flag, do="mend the flag")


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
    together: bool = True,
) -> dict[Recipe, Features]:
    """Features of a split for each recipe, from the cache where they are there.

    Args:
        recipes: what to keep of the tokens; all that are missing share one forward pass.
        cache: root folder of the feature cache.
        together: all processes call this at once; False: this one alone asks for what is there.

    Raises:
        DataError: an unreadable image beyond those allowed (it is named), features that are not finite.
        StorageError: no room or right to write; the shards finished so far are kept.
    """
    how = how or Extraction()
    check_images(split, how.skip_bad_images)
    entries = {r: Entry(root=cache, key=key_of(backbone, split, transform, r)) for r in recipes}
    done = [e.done() for e in entries.values()]
    if together:  # another run may finish an entry between the look of one process and that of the next
        done = list(distributed.broadcast_object(done))  # type: ignore[call-overload]
    missing = {r: e for (r, e), there in zip(entries.items(), done, strict=True) if not there}
    if missing:
        if not together and distributed.world_size() > 1:
            raise RuntimeError(
                f"features {[r.text() for r in missing]} were not prepared: `extracts` did not name them"
            )
        _fill(_Job(backbone=backbone, split=split, transform=transform, how=how), missing)
    return {r: stored(entry, split, how.skip_bad_images) for r, entry in entries.items()}


def stored(entry: Entry, split: Split, allowed: int) -> Features:
    """The features of a finished entry. Raises: StorageError: it is damaged. DataError: it lacks too many images."""
    features = entry.read(split)
    if len(features.skipped) > allowed:
        raise too_many(split, len(features.skipped), allowed, features.skipped[0])
    return features


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
        for number, unreadable, kept, rows in _forward(job, tuple(missing), todo, plan, advance):
            bad += len(unreadable)
            if bad > how.skip_bad_images:
                index, message = unreadable[0]
                raise too_many(split, bad, how.skip_bad_images, split.image_id(index), message)
            for entry, x in zip(missing.values(), rows, strict=True):
                entry.write_shard(number, x, kept, job.indices(number, plan["shard"]))
    distributed.barrier()
    if distributed.is_main():
        for entry in missing.values():
            entry.finish(num_shards, split.labels)
    distributed.barrier()


def _forward(
    job: _Job, recipes: tuple[Recipe, ...], todo: list[int], plan: dict[str, int], advance: progress.Advance
) -> Iterator[Shard]:
    """The shards in `todo`, one after the other."""
    batches, owner = [], []
    for number in todo:
        indices, size = job.indices(number, plan["shard"]), plan["batch_size"]
        parts = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
        batches += parts
        owner += [number] * len(parts)
    chunks: list[list[np.ndarray]] = [[] for _ in recipes]
    kept: list[int] = []
    unreadable: list[tuple[int, str]] = []
    for position, batch in enumerate(decoding.batches(job.split, job.transform, batches, job.how.workers)):
        good = [(i, p) for i, p, _ in batch if p is not None]
        unreadable += [(i, message) for i, p, message in batch if p is None]
        if good:
            numbers = [i for i, _ in good]
            pixels = np.stack([p for _, p in good])
            for chunk, x in zip(chunks, forward(job.backbone, job.transform, pixels, recipes), strict=True):
                chunk.append(finite(x, job.split, numbers))
            kept += numbers
        advance(len(batch))
        if position + 1 == len(batches) or owner[position + 1] != owner[position]:
            rows = [np.concatenate(c) if c else np.zeros((0, 0), np.float32) for c in chunks]
            yield owner[position], unreadable, np.asarray(kept, dtype=np.int64), rows
            chunks, kept, unreadable = [[] for _ in recipes], [], []


def forward(
    backbone: Backbone, transform: Transform, pixels: np.ndarray, recipes: tuple[Recipe, ...]
) -> list[torch.Tensor]:
    """[B, D] for each recipe, from pixels uint8 [B, crop, crop, 3]. Raises: SettingsError: the device is too small."""
    try:
        x = torch.from_numpy(pixels).to(backbone.device, non_blocking=True)
        return backbone.features(transform.normalise(x), recipes)
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            wanted=f"memory on {backbone.device} for {len(pixels)} images at a time",
            got="less",
            where="--batch-size",
            do=f"--batch-size {max(1, len(pixels) // 2)}",
        ) from error


def finite(x: torch.Tensor, split: Split, indices: Sequence[int]) -> np.ndarray:
    """x [B, D] on the host, of the images `indices`. Raises: DataError: a value that is not finite (it is named)."""
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


def auto_batch(backbone: Backbone) -> int:
    """A batch size by the number of tokens an image makes: enough to fill the device, little enough to fit."""
    arch: Arch = backbone.arch
    tokens = (arch.img_size // arch.patch_size) ** 2 + 1
    budget = 16_384 if backbone.device.type == "cpu" else 131_072
    return int(max(8, min(512, 2 ** math.floor(math.log2(budget / tokens))))) if tokens < budget else 8


def check_images(split: Split, allowed: int) -> None:
    """Raises: DataError: a split without images, or more empty files than are allowed; before any is decoded."""
    if not len(split):
        where = f"{split.dataset} {split.name}"
        raise DataError(wanted="at least one image", got="none", where=where, do="add images")
    if len(split.empty) > allowed:
        raise too_many(split, len(split.empty), allowed, split.empty[0], "an empty file")


def too_many(split: Split, count: int, allowed: int, name: str, message: str = "") -> DataError:
    """What to say where `count` images cannot be read, the first called `name`."""
    return DataError(
        wanted=f"at most {allowed} unreadable images in {split.dataset} {split.name}",
        got=f"{count}" + (f" ({message})" if message else ""),
        where=(split.root or Path()) / name,
        do="restore the file, or allow some to be left out with --skip-bad-images N; finished shards are kept",
    )
