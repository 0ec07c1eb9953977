"""What a plan would do and what it would take: jobs, images, features, bytes, memory and time; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaltk import files, machine
from evaltk.bench import AnyDataset, Bench, Need, not_estimated
from evaltk.data.images import Split
from evaltk.datasets.davis2017 import Sequences
from evaltk.errors import EvaltkError, StorageError
from evaltk.progress import log
from evaltk.running import benching
from evaltk.running.benching import extracts_of, wanted
from evaltk.running.cells import Cell
from evaltk.running.forecast import FeaturesToBe, Forecast, JobToBe, Measured, Pair, Reading, State
from evaltk.running.planning import Job, Plan, known_protocol

if TYPE_CHECKING:
    from evaltk.data.transforms import Transform
    from evaltk.features.shards import Entry
    from evaltk.running.measuring import Paced
    from evaltk.types import Recipe

SHARD_BYTES = 1_000  # of a shard's file beside its rows: what numpy and zip write around them


@dataclass(slots=True)
class _Before:
    """What earlier passes give to later ones: names of entries they make, and the pace of a checkpoint's net."""

    entries: set[str] = field(default_factory=set)
    pace: dict[tuple[int, tuple[Recipe, ...], int], Paced] = field(default_factory=dict)


def forecast(todo: Sequence[Cell]) -> Forecast:
    """What `run` would do with these cells (at least one). Torch is imported only where something is left to do.

    Raises: EvaltkError: what `run` raises of names, layouts, files and folders, and of the images that are measured.
    """
    pairs: list[Pair] = []
    before, loading = _Before(), 0.0
    plan = todo[0].plan
    nets: dict[object, list[Cell]] = {}
    for cell in todo:
        nets.setdefault(cell.net, []).append(cell)
    for mine in nets.values():
        left = [cell.job for cell in mine if cell.wanted()]
        for job in left:
            files.check_folder(job.path.parent)
        bench, before.pace = None, {}
        bad: dict[str, EvaltkError] = {}
        if left and _at_hand(left[0].checkpoint):
            started = time.perf_counter()
            bench, bad = _bench(mine[0].plan, left)
            loading += time.perf_counter() - started
            if len(bad) == len(todo):
                raise next(iter(bad.values()))
        all_jobs = [cell.job for cell in mine]
        for dataset in {id(job.dataset): job.dataset for job in all_jobs}.values():
            here = [job for job in left if job.dataset is dataset]
            good = [job for job in here if str(job.path) not in bad]
            readings, notes = _readings(mine[0].plan, good, dataset, bench, before)
            an_image = max((r.seconds / r.left for r in readings if r.seconds and r.left), default=None)
            told = tuple(
                _told(job, job not in here, bench, bad, an_image) for job in all_jobs if job.dataset is dataset
            )
            notes += tuple(
                f"{job.protocol} would fail: {bad[str(job.path)].brief()}" for job in here if str(job.path) in bad
            )
            pairs.append(
                Pair(checkpoint=all_jobs[0].name, dataset=dataset.name, kind=dataset.KIND, jobs=told,
                     readings=readings, notes=notes)
            )  # fmt: skip
    return Forecast(
        pairs=tuple(pairs), cache=str(plan.cache), free=files.free_bytes(plan.cache), loading=loading,
        spare=machine.spare_memory(),
    )  # fmt: skip


def _at_hand(checkpoint: str) -> bool:
    """Whether the weights are on this machine: those of timm:NAME may still have to be downloaded."""
    if not _of_timm(checkpoint):
        return True
    from evaltk.checkpoints.families import timm

    return timm.at_hand(checkpoint.partition(":")[2])


def _of_timm(checkpoint: str) -> bool:
    return checkpoint.startswith("timm:") and not Path(checkpoint).exists()


def _bench(plan: Plan, left: Sequence[Job]) -> tuple[Bench | None, dict[str, EvaltkError]]:
    """The net as the runner has it, without a download, and {path: error} of the jobs that cannot be run."""
    context: AbstractContextManager[object] = nullcontext()
    if _of_timm(left[0].checkpoint):
        from evaltk.checkpoints.families import timm

        context = timm.offline()
    with context:
        try:
            loaded = benching.checkpoint_of(plan, left[0])
            bad = {}
            for job in left:
                try:
                    known_protocol(job.protocol).check_checkpoint(loaded)
                except EvaltkError as error:
                    bad[str(job.path)] = error
            good = [job for job in left if str(job.path) not in bad]
            return (benching.bench_with(plan, loaded, benching.device_of(plan, good)) if good else None), bad
        except EvaltkError as error:
            return None, {str(job.path): error for job in left}


def _told(job: Job, done: bool, bench: Bench | None, bad: Mapping[str, EvaltkError], an_image: float | None) -> JobToBe:
    some, seconds = False, None
    if bench is not None and not done and str(job.path) not in bad:
        some = any(needs for _, needs in extracts_of(job, bench))
        protocol = known_protocol(job.protocol)
        if protocol.estimate is not not_estimated:
            log.info("timing what %s does", job.protocol)
        seconds = protocol.estimate(bench, job.dataset, job.settings, an_image)
    return JobToBe(
        protocol=job.protocol,
        path=str(job.path),
        done=done,
        covers="extraction" if some else "nothing",
        seconds=seconds,
    )


def _readings(
    plan: Plan, here: Sequence[Job], dataset: AnyDataset, bench: Bench | None, before: _Before
) -> tuple[tuple[Reading, ...], tuple[str, ...]]:
    """The passes over a dataset in the order in which `run` makes them, and notes."""
    if not here:
        return (), ()
    if bench is None:
        return (), ("the weights are not in timm's cache: `run` downloads them, and nothing is estimated",)
    found: list[Reading] = []
    for split, needs in wanted(here, bench):
        decoded = False  # by an earlier view, which has the images open
        for view in dict.fromkeys(need.view for need in needs):
            some = [need for need in needs if need.view == view]
            found.append(_reading(bench, split, bench.transform(view), some, before, decoded))
            decoded = decoded or bool(found[-1].left)
        if not needs:
            found.append(Reading(split=split.name, images=len(split)))
    if isinstance(dataset, Sequences):
        frames = sum(len(video.frames) for video in dataset.sequences)
        found.append(Reading(split=f"{len(dataset.sequences)} sequences", images=frames))
    unreadable = any(r.left and r.measured is None for r in found)
    return tuple(found), ("none of the images looked at could be read",) if unreadable else ()


def _reading(
    bench: Bench, split: Split, transform: Transform, needs: Sequence[Need], before: _Before, decoded: bool
) -> Reading:
    from evaltk.features import checks
    from evaltk.features import extraction as features
    from evaltk.features.shards import Entry, outstanding

    how, recipes = bench.extraction, tuple(dict.fromkeys(need.recipe for need in needs))
    checks.check_images(split, how.skip_bad_images)
    entries = {r: Entry(root=bench.cache, key=features.key_of(bench.backbone, split, transform, r)) for r in recipes}
    states: dict[Recipe, State] = {r: _state(e, split, how.skip_bad_images, before) for r, e in entries.items()}
    missing = tuple(r for r in recipes if states[r] in ("begun", "missing"))
    batch = how.batch_size or features.auto_batch(bench.backbone)
    sizes = {"batch_size": batch, "shard": how.shard}
    shards = (
        outstanding([entries[r] for r in missing], len(split), sizes, fixed=how.batch_size is not None)
        if missing
        else []
    )
    num_bytes: dict[Recipe, int] = {}
    said: dict[str, Any] = {}
    left = sum(map(len, shards))
    if missing:
        files.check_folder(entries[missing[0]].partial)
        size = min(batch, how.shard, len(split))
        said, widths = _measure(bench, split, transform, missing, size, left, before, decoded)
        num_bytes = {r: entries[r].num_bytes(len(split), w) for r, w in zip(missing, widths, strict=False)}
        rows = left * sum(4 * w + 8 for w in widths) + SHARD_BYTES * len(shards) * len(widths)
        said["room"] = rows + max(num_bytes.values(), default=0)
        before.entries.update(entries[r].key.digest() for r in missing)
    return Reading(
        split=split.name,
        images=len(split),
        left=left,
        looks=transform.text(),
        features=tuple(
            FeaturesToBe(recipe=r.text(), state=states[r], num_bytes=num_bytes.get(r) if r in missing else 0)
            for r in recipes
        ),
        **said,
    )


def _state(entry: Entry, split: Split, allowed: int, before: _Before) -> State:
    """Where a feature stands. Raises: StorageError, DataError: an entry that `run` would refuse to use."""
    from evaltk.features import extraction as features

    if entry.done():
        try:
            entry.check()
        except StorageError as error:  # `run` sets it aside
            log.warning("%s; `run` makes it anew", error)
            return "missing"
        features.stored(entry, split, allowed)
        return "cached"
    if entry.key.digest() in before.entries:
        return "earlier"
    return "begun" if entry.partial.exists() else "missing"


def _measure(
    bench: Bench, split: Split, transform: Transform, recipes: tuple[Recipe, ...], batch: int, left: int,
    before: _Before, opened: bool,
) -> tuple[dict[str, Any], tuple[int, ...]]:  # fmt: skip
    """Seconds, memory and what they are from, and the features' widths; nothing where no image can be read."""
    from evaltk.data import loading
    from evaltk.running import measuring

    how = bench.extraction
    log.info("measuring on a few images of %s %s", split.dataset, split.name)
    decoded = measuring.decode(split, transform, how.skip_bad_images)
    if decoded is None:
        return {}, ()
    key = (transform.crop, recipes, batch)
    if key not in before.pace:
        before.pace[key] = measuring.pace(bench.backbone, split, transform, recipes, decoded, batch)
    paced = before.pace[key]
    workers = loading.num_workers_for(split, how.workers)
    decoding = measuring.cropping_seconds(split, transform, decoded.numbers) if opened else decoded.seconds
    one = measuring.seconds_an_image(
        decoding, paced.seconds, workers=workers, on_cpu=bench.backbone.device.type == "cpu"
    )
    measured = Measured(
        decoded=len(decoded.numbers),
        decoding_seconds=decoding,
        in_a_batch=paced.num_images,
        net_seconds=paced.seconds,
        batch=batch,
        workers=workers,
        memory_of=paced.how,
    )
    return {"seconds": one * left, "memory": paced.memory, "measured": measured}, paced.widths
