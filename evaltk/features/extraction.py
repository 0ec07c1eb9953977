"""Extract features once: in shards, resumable, shared over processes, one forward pass for all recipes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from evaltk import distributed, progress
from evaltk.data import loading
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import SettingsError, StorageError
from evaltk.features import checks
from evaltk.features.cache import cache_key, splits_key
from evaltk.features.shards import SHARD, Entry
from evaltk.sending import Sender, read_back
from evaltk.types import EXTRACTION_VERSION, Arch, FeatureKey, Features, PositionRule, Precision

Back = Callable[[], list[torch.Tensor]]
# Its number, what was unreadable, the indices kept [n], and x [n, D] for each spec.
Shard = tuple[int, list[tuple[int, str]], np.ndarray, list[np.ndarray]]


class FeatureSpec(Protocol):
    """Which feature to make: a value that can be a key, and a text for the cache key."""

    def __hash__(self) -> int: ...
    def text(self) -> str: ...


Spec = TypeVar("Spec", bound=FeatureSpec)
SpecIn = TypeVar("SpecIn", bound=FeatureSpec, contravariant=True)


class FeatureNet(Protocol[SpecIn]):
    """What makes features: images [B, 3, H, W], normalised -> float32 [B, D] for each spec, in their order.

    The properties say what the features depend on and where they are made.
    """

    @property
    def arch(self) -> Arch: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def digest(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def position(self) -> PositionRule | None: ...
    def features(self, images: torch.Tensor, specs: tuple[SpecIn, ...], /) -> list[torch.Tensor]: ...


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
                raise SettingsError(wanted=f"at least {least}", got=str(value), where=flag, do="use a larger number")


def key_of(net: FeatureNet[Any], split: Split, transform: Transform, spec: FeatureSpec) -> FeatureKey:
    """All that the features of this split depend on."""
    return cache_key(
        net, **splits_key(split), transform=transform.text(), recipe=spec.text(), version=EXTRACTION_VERSION
    )


def extract(
    net: FeatureNet[Spec],
    split: Split,
    transform: Transform,
    specs: Sequence[Spec],
    *,
    cache: Path,
    how: Extraction | None = None,
    together: bool = True,
) -> dict[Spec, Features]:
    """Features of a split for each spec, from the cache where they are there.

    Args:
        specs: what to keep of the tokens; all that are missing share one forward pass.
        cache: root folder of the feature cache.
        together: all processes call this at once; False: this one alone asks for what is there.

    Raises:
        DataError: an unreadable image beyond those allowed (it is named), features that are not finite.
        StorageError: no room or right to write; the shards finished so far are kept.
    """
    how = how or Extraction()
    checks.check_images(split, how.skip_bad_images)
    entries = {spec: Entry(root=cache, key=key_of(net, split, transform, spec)) for spec in specs}
    done = [e.ready() if distributed.is_main() else e.done() for e in entries.values()]
    if together:  # another run may finish an entry between the look of one process and that of the next
        done = list(distributed.broadcast_object(done))  # type: ignore[call-overload]
    missing = {spec: entry for (spec, entry), ready in zip(entries.items(), done, strict=True) if not ready}
    if missing:
        if not together and distributed.world_size() > 1:
            for entry in missing.values():
                if entry.damaged.exists():
                    do = "run the same command again: they are made anew"
                    raise StorageError(wanted="the features just made", got="damaged ones", where=entry.damaged, do=do)
            raise RuntimeError(f"features {[s.text() for s in missing]} were not prepared: extracts did not name them")
        _fill(_Job(net=net, split=split, transform=transform, how=how), missing)
    return {spec: stored(entry, split, how.skip_bad_images) for spec, entry in entries.items()}


def stored(entry: Entry, split: Split, allowed: int) -> Features:
    """The features of a finished entry. Raises: StorageError: it is damaged. DataError: it lacks too many images."""
    features = entry.read(split)
    checks.check_unreadable(split, features.skipped, allowed)
    return features


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job(Generic[Spec]):
    """One pass over one split."""

    net: FeatureNet[Spec]
    split: Split
    transform: Transform
    how: Extraction

    def indices(self, number: int, shard: int) -> range:
        """The images of shard `number`."""
        return range(number * shard, min((number + 1) * shard, len(self.split)))


def _fill(job: _Job[Spec], missing: dict[Spec, Entry]) -> None:
    """Make the shards that lack, this process its share, and join them."""
    split, how = job.split, job.how
    wanted = {"batch_size": how.batch_size or auto_batch(job.net), "shard": how.shard}
    plans = [wanted]
    if distributed.is_main():
        plans = [entry.plan(wanted, fixed=how.batch_size is not None) for entry in missing.values()]
        if any(plan != plans[0] for plan in plans):  # begun apart with other sizes: begin anew together
            plans = [entry.plan(plans[0], fixed=True) for entry in missing.values()]
    plan = distributed.broadcast_object(plans[0])
    assert isinstance(plan, dict)
    num_shards = math.ceil(len(split) / plan["shard"])
    mine = range(distributed.rank(), num_shards, distributed.world_size())
    todo = [n for n in mine if sum(e.has_sound_shard(n) for e in missing.values()) < len(missing)]  # looks at each
    total, ready = (sum(len(job.indices(n, plan["shard"])) for n in some) for some in (mine, set(mine) - set(todo)))
    bad: list[tuple[str, str]] = []
    with progress.bar(f"{split.dataset}/{split.name}", total, done=ready) as advance:
        for number, unreadable, kept, rows in _forward(job, tuple(missing), todo, plan, advance):
            bad += [(split.image_id(index), message) for index, message in unreadable]
            if bad:
                checks.check_unreadable(split, tuple(name for name, _ in bad), how.skip_bad_images, bad[0][1])
            for entry, x in zip(missing.values(), rows, strict=True):
                entry.write_shard(number, x, kept, job.indices(number, plan["shard"]))
    distributed.barrier()
    if distributed.is_main():
        for entry in missing.values():
            entry.finish(num_shards, split.labels)
    distributed.barrier()


def _forward(
    job: _Job[Spec], specs: tuple[Spec, ...], todo: list[int], plan: dict[str, int], advance: progress.Advance
) -> Iterator[Shard]:
    """The shards in `todo`, one after the other."""
    batches, owner = [], []
    for number in todo:
        indices, size = job.indices(number, plan["shard"]), plan["batch_size"]
        parts = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
        batches += parts
        owner += [number] * len(parts)
    chunks: list[list[np.ndarray]] = [[] for _ in specs]
    kept: list[int] = []
    unreadable: list[tuple[int, str]] = []
    sender = Sender(job.net.device)
    # On a GPU a batch is read back once the next is under way.
    ahead = 1 if job.net.device.type == "cuda" else 0
    waiting: deque[tuple[list[int], Back]] = deque()
    load = partial(loading.pixels, job.split, job.transform)
    workers = loading.num_workers_for(job.split, job.how.workers)
    for position, batch in enumerate(loading.batches(load, batches, workers)):
        good = [(i, p) for i, p, _ in batch if p is not None]
        unreadable += [(i, message) for i, p, message in batch if p is None]
        if good:
            numbers = [i for i, _ in good]
            pixels = np.stack([p for _, p in good])
            waiting.append((numbers, back(forward(job.net, job.transform, pixels, specs, sender))))
        complete = position + 1 == len(batches) or owner[position + 1] != owner[position]
        while len(waiting) > (0 if complete else ahead):
            numbers, read = waiting.popleft()
            for chunk, x in zip(chunks, read(), strict=True):
                chunk.append(finite(x, job.split, numbers))
            kept += numbers
        advance(len(batch))
        if complete:
            rows = [np.concatenate(c) if c else np.zeros((0, 0), np.float32) for c in chunks]
            yield owner[position], unreadable, np.asarray(kept, dtype=np.int64), rows
            chunks, kept, unreadable = [[] for _ in specs], [], []


def forward(
    net: FeatureNet[Spec],
    transform: Transform,
    pixels: np.ndarray,
    specs: tuple[Spec, ...],
    sender: Sender | None = None,
) -> list[torch.Tensor]:
    """[B, D] for each spec, from pixels uint8 [B, h, w, 3]. Raises: SettingsError: out of GPU memory."""
    with checks.enough_memory(net.device, len(pixels)):
        x = (sender or Sender(net.device)).send(torch.from_numpy(pixels))
        return net.features(transform.normalise(x), specs)


def back(features: list[torch.Tensor]) -> Back:
    """Begin to read features [B, D] each back, all with one copy; what is returned waits for it."""
    if features[0].device.type == "cpu":
        return lambda: features
    wait, widths = read_back(torch.cat(features, dim=1)), [x.shape[1] for x in features]
    return lambda: list(wait().split(widths, dim=1))


def finite(x: torch.Tensor, split: Split, indices: Sequence[int]) -> np.ndarray:
    """x [B, D] on the host, of the images `indices`. Raises: DataError: a value that is not finite (it is named)."""
    checks.check_finite(x, lambda row: f"{split.dataset} {split.name}, image {split.image_id(indices[row])}")
    return x.cpu().contiguous().numpy()


def auto_batch(net: FeatureNet[Any]) -> int:
    """A batch size by the number of tokens per image: enough to fill the device, few enough to fit."""
    arch = net.arch
    tokens = (arch.img_size // arch.patch_size) ** 2 + 1
    budget = 16_384 if net.device.type == "cpu" else 131_072
    return int(max(8, min(512, 2 ** math.floor(math.log2(budget / tokens))))) if tokens < budget else 8
