"""One pass over a split: its shards that lack, decoded once for all transforms, forwarded once for each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import numpy as np

from evaltk import distributed, files, progress
from evaltk.data import loading
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import StorageError
from evaltk.features import checks, first_pace
from evaltk.features.nets import Back, Extraction, FeatureNet, Spec, auto_batch, back, finite, forward
from evaltk.features.pixels import PixelCache
from evaltk.features.shards import Entry
from evaltk.sending import Sender

Entries = dict[tuple[Transform, Spec], Entry]
# Its number, what was unreadable, the indices kept [n], and x [n, D] for each entry.
Shard = tuple[int, list[tuple[int, str]], np.ndarray, list[np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Spec]):
    """What a pass is over, with which net. cache: root folder of the pixels that are kept."""

    net: FeatureNet[Spec]
    split: Split
    how: Extraction
    cache: Path

    def indices(self, number: int, shard: int) -> range:
        """The images of shard `number`."""
        return range(number * shard, min((number + 1) * shard, len(self.split)))


def fill(job: Job[Spec], missing: Entries[Spec]) -> None:
    """Make the shards that lack, this process its share, and join them. Raises: DataError, StorageError."""
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
    views = _views(tuple(missing))

    def pace() -> float | None:
        some = job.indices(todo[0], plan["shard"]) if todo else range(0)
        return first_pace.images_a_second(job.net, loading.Views(split, tuple(views)), views, some, how)

    with progress.bar(f"{split.dataset}/{split.name}", total, done=ready, pace=pace) as advance:
        for number, unreadable, kept, rows in _forward(job, tuple(missing), todo, plan, advance):
            bad += [(split.image_id(index), message) for index, message in unreadable]
            if bad:
                checks.check_unreadable(split, tuple(name for name, _ in bad), how.skip_bad_images, bad[0][1])
            if number == todo[0]:
                _check_room(job, todo, plan["shard"], [x.shape[1] for x in rows])
            for entry, x in zip(missing.values(), rows, strict=True):
                entry.write_shard(number, x, kept, job.indices(number, plan["shard"]))
    distributed.barrier()
    if distributed.is_main():
        for entry in missing.values():
            entry.finish(num_shards, split.labels)
    distributed.barrier()


def _views(made: Sequence[tuple[Transform, Spec]]) -> dict[Transform, tuple[Spec, ...]]:
    """The specs of each transform."""
    return {t: tuple(spec for other, spec in made if other == t) for t in dict.fromkeys(t for t, _ in made)}


def _check_room(job: Job[Any], todo: Sequence[int], shard: int, widths: Sequence[int]) -> None:
    """Raises: StorageError: less room than the shards still to be made and the largest feature's joined file need."""
    images = sum(len(job.indices(number, shard)) for number in todo)
    needed = images * sum(4 * width for width in widths) + len(job.split) * 4 * max(widths)
    free = files.free_bytes(job.cache)
    if needed > free:
        where = f"{job.cache}, for {job.split.dataset} {job.split.name}"
        do = "free some, or choose another folder with --cache; evaltk plan tells beforehand"
        raise StorageError(wanted=f"{needed:,} bytes for features", got=f"{free:,} free", where=where, do=do)


def _forward(
    job: Job[Spec],
    made: Sequence[tuple[Transform, Spec]],
    todo: list[int],
    plan: Mapping[str, int],
    advance: progress.Advance,
) -> Iterator[Shard]:
    """The shards in `todo`, one after the other."""
    views = _views(made)
    place = {one: n for n, one in enumerate((t, spec) for t, specs in views.items() for spec in specs)}
    order = [place[one] for one in made]
    sender = Sender(job.net.device)
    # On a GPU a batch is read back once the next is under way.
    ahead = 1 if job.net.device.type == "cuda" else 0
    for number, batches in _decoded(job, tuple(views), todo, plan):
        rows = _Rows(split=job.split, chunks=[[] for _ in made])
        unreadable: list[tuple[int, str]] = []
        for batch in batches:
            unreadable += batch.bad
            if batch.kept:
                pairs = zip(views.items(), batch.pixels, strict=True)
                reads = [back(forward(job.net, t, pixels, specs, sender)) for (t, specs), pixels in pairs]
                rows.waiting.append((batch.kept, reads))
            rows.settle(ahead)
            advance(len(batch.kept) + len(batch.bad))
        rows.settle(0)
        x = rows.joined()
        yield number, unreadable, np.asarray(rows.kept, dtype=np.int64), [x[n] for n in order]


@dataclass(slots=True, kw_only=True)
class _Rows:
    """Features of a shard so far: chunks of x [n, D] for each entry. waiting: batches still to be read back."""

    split: Split
    chunks: list[list[np.ndarray]]
    kept: list[int] = field(default_factory=list)
    waiting: deque[tuple[list[int], list[Back]]] = field(default_factory=deque)

    def settle(self, most: int) -> None:
        """Read back all but the last `most` batches. Raises: DataError: a value that is not finite."""
        while len(self.waiting) > most:
            numbers, reads = self.waiting.popleft()
            for chunk, x in zip(self.chunks, (x for read in reads for x in read()), strict=True):
                chunk.append(finite(x, self.split, numbers))
            self.kept += numbers

    def joined(self) -> list[np.ndarray]:
        """x [n, D] for each entry."""
        return [np.concatenate(c) if c else np.zeros((0, 0), np.float32) for c in self.chunks]


def _decoded(
    job: Job[Any], transforms: tuple[Transform, ...], todo: Sequence[int], plan: Mapping[str, int]
) -> Iterator[tuple[int, Iterator[loading.Batch]]]:
    """Each shard with its batches, from the pixels kept of an earlier pass or decoded now."""
    size = plan["batch_size"]
    kept = PixelCache(
        root=job.cache, most=0 if job.split.pixels is not None else job.how.pixels, split=job.split, shard=plan["shard"]
    )
    parts = {}
    for number in todo:
        indices = job.indices(number, plan["shard"])
        parts[number] = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
    stored = {number: kept.open(number, transforms) for number in todo}
    fresh = [part for number in todo if stored[number] is None for part in parts[number]]
    workers = loading.num_workers_for(job.split, job.how.workers)
    decoded = loading.stacked(loading.Views(job.split, transforms), fresh, workers)

    def now(number: int) -> Iterator[loading.Batch]:
        batches = []
        for _ in parts[number]:
            batch = next(decoded)
            if kept.most and not kept.full:
                batches.append(batch)
            yield batch
        if batches:
            kept.write(number, transforms, batches)

    for number in todo:
        found = stored[number]
        yield number, now(number) if found is None else found.batches(parts[number])
