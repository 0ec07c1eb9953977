"""Jobs of one net: it is loaded once, features are extracted once for all of them, and each result is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from evaltk import crew, plugins, progress, results
from evaltk.bench import Bench, Extracts, Need, nothing_to_prepare
from evaltk.data import sanity
from evaltk.errors import CheckpointError
from evaltk.machine import provenance, resolve_device
from evaltk.progress import log
from evaltk.running.costs import Meter
from evaltk.running.planning import Job, Plan, known_protocol, stamp
from evaltk.types import Deviation, Preprocessing, Result, ResultData, digest

if TYPE_CHECKING:
    from evaltk.data.images import Split
    from evaltk.types import Checkpoint

MEASURED = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm: no parameters


class TakenOver(Exception):
    """Another run has taken a job over, as after this machine was suspended."""


def measured(plan: Plan, left: Sequence[Job], bench: Bench) -> Iterator[Result | None]:
    """The results of jobs on one net, one by one and written; None on processes other than the main one."""
    for dataset in {id(job.dataset): job.dataset for job in left}.values():
        for _, outcome in outcomes(plan, [job for job in left if job.dataset is dataset], bench):
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


def outcomes(
    plan: Plan,
    here: Sequence[Job],
    bench: Bench,
    *,
    carry_on: bool = False,
    alone: Callable[[Bench, Split, tuple[Need, ...]], AbstractContextManager[None]] | None = None,
    ours: Callable[[Job], bool] | None = None,
) -> Iterator[tuple[Job, Result | Exception | None]]:
    """Each job of one net on one dataset with its result, written; None on processes other than the main one.

    Args:
        carry_on: an error of a job is handed on in place of its result; else it is raised.
        alone: around the extraction of a split, to keep other runs from doing the same at the same time.
        ours: whether a job still is this run's to do, asked just before; `TakenOver` comes in place of the others.
    """
    from evaltk import distributed

    started, meter = time.perf_counter(), Meter(bench=bench)
    dataset, failed = here[0].dataset, dict[int, Exception]()
    learning = any(known_protocol(job.protocol).learns(job.settings) for job in here)
    shared = sanity.shared_images(dataset) if learning and distributed.is_main() else ()
    asked: dict[int, Extracts] = {}
    for number, job in enumerate(here):
        with _kept(failed, [number], carry_on):
            asked[number] = extracts_of(job, bench)
    for split, needs in merged(asked.values()):
        crew.doing(f"features of {split.dataset} {split.name}")
        of_split = [n for n, extracts in asked.items() if any(s is split and wants for s, wants in extracts)]
        unshared = alone(bench, split, needs) if alone else nullcontext()
        with _kept(failed, of_split, carry_on), unshared, meter.extracting(split, needs):
            bench.prepare(split, needs)
    for number, job in enumerate(here):
        if number not in failed:
            crew.doing(f"{job.protocol} on {job.name}")
            with _kept(failed, [number], carry_on):
                known_protocol(job.protocol).prepare(bench, dataset, job.settings)
    extracting = time.perf_counter() - started
    told = meter.told()
    cost = {"cost": told} if told else {}
    moved = dict.fromkeys(asked, tuple[str, ...]())
    if plan.precision == "bf16" and distributed.is_main():
        from evaltk.running import moved as precisions

        good = [number for number in asked if number not in failed]
        moved |= zip(good, precisions.notes(bench, dataset, [asked[number] for number in good]), strict=True)
    for number, job in enumerate(here):
        result: Result | None = None
        if ours is not None and number not in failed and distributed.is_main() and not ours(job):
            failed[number] = TakenOver()
        if number not in failed and distributed.is_main():
            with _kept(failed, [number], carry_on):
                result = _run_job(plan, job, bench, extracting, shared, moved[number], cost)
        distributed.barrier()
        yield job, failed.get(number, result)


@contextmanager
def _kept(failed: dict[int, Exception], numbers: Sequence[int], carry_on: bool) -> Iterator[None]:
    """An error in the block becomes that of these jobs, unless they have one; raised where none is to carry on."""
    try:
        yield
    except Exception as error:
        if not carry_on:
            raise
        for number in numbers:
            failed.setdefault(number, error)


def bench_of(plan: Plan, left: Sequence[Job]) -> Bench:
    """The net of one checkpoint, ready for its jobs `left` (at least one).

    Raises: CheckpointError, SettingsError: a file that cannot be used or is another by now, a device or size that will
        not do.
    """
    device = device_of(plan, left)
    loaded = checkpoint_of(plan, left[0])
    for job in left:
        known_protocol(job.protocol).check_checkpoint(loaded)
    return bench_with(plan, loaded, device)


def checkpoint_of(plan: Plan, job: Job) -> Checkpoint:
    """The checkpoint of a job, loaded. Raises: CheckpointError: it cannot be used, or is another by now."""
    with progress.status("reading the weights"):
        from evaltk.checkpoints.load import load

        loaded = load(job.checkpoint, plan.read)
    _check_unchanged(job, loaded)
    for note in loaded.notes:
        log.info("%s: %s", job.name, note)
    return loaded


def bench_with(plan: Plan, loaded: Checkpoint, device: str) -> Bench:
    """The net of a loaded checkpoint on the device, ready to be asked. Raises: SettingsError."""
    from evaltk.features.extraction import Extraction
    from evaltk.models.backbone import build_backbone

    return Bench(
        checkpoint=loaded,
        backbone=build_backbone(loaded, device=device, precision=plan.precision, position=plan.position),
        device="cpu" if device == "mps" else device,  # scores are computed in float64, which mps does not have
        seed=plan.seed,
        cache=plan.cache,
        images=plan.images,
        extraction=Extraction(
            batch_size=plan.batch_size,
            workers=plan.workers,
            skip_bad_images=plan.skip_bad_images,
            pixels=round(plan.pixels * 1e9),
        ),
    )


def device_of(plan: Plan, left: Sequence[Job]) -> str:
    """The device of the forward passes of jobs `left`. Raises: SettingsError: it is not on this machine."""
    # Protocols that pass images themselves sum in float64 where the net is.
    features_only = all(known_protocol(job.protocol).prepare is nothing_to_prepare for job in left)
    with progress.status("loading torch"):
        return resolve_device(plan.device, mps=features_only)


def wanted(here: Sequence[Job], bench: Bench) -> list[tuple[Split, tuple[Need, ...]]]:
    """Each split of a dataset with all that its protocols need of it, so that one pass serves all of them."""
    return merged([extracts_of(job, bench) for job in here])


def merged(extracts: Iterable[Extracts]) -> list[tuple[Split, tuple[Need, ...]]]:
    """Each split once, with all that is needed of it."""
    found: dict[tuple[str, str], tuple[Split, list[Need]]] = {}
    for one in extracts:
        for split, needs in one:
            found.setdefault((split.name, split.fingerprint), (split, []))[1].extend(needs)
    return [(split, tuple(dict.fromkeys(needs))) for split, needs in found.values()]


def extracts_of(job: Job, bench: Bench) -> Extracts:
    """What a job extracts of the splits."""
    return known_protocol(job.protocol).extracts(bench, job.dataset, job.settings)


def _check_unchanged(job: Job, loaded: Checkpoint) -> None:
    known = job.asked["checkpoint"].get("sha256", loaded.sha256)
    if known != loaded.sha256:
        raise CheckpointError(
            wanted=f"the file that was there at the start (sha256 {known[:12]})",
            got=f"another ({loaded.sha256[:12]})",
            where=job.checkpoint,
            do="run again once nothing writes to it",
        )


def _run_job(
    plan: Plan,
    job: Job,
    bench: Bench,
    extracting: float,
    shared: tuple[Deviation, ...],
    moved: tuple[str, ...],
    cost: dict[str, Any],
) -> Result:
    started = time.perf_counter()
    needs = [need for _, split_needs in extracts_of(job, bench) for need in split_needs]
    outcome = known_protocol(job.protocol).run(bench, job.dataset, job.settings)
    seconds = {"extracting": round(extracting, 3), "scoring": round(time.perf_counter() - started, 3)}
    device = "mps" if bench.backbone.device.type == "mps" else bench.device
    result = Result(
        checkpoint=described(job.name, bench.checkpoint),
        protocol=job.protocol,
        version=job.asked["version"],
        origin_proof=bench.checkpoint.origin_proof,
        settings=job.asked["settings"],
        data=ResultData(**job.asked["dataset"], sizes=dict(job.dataset.sizes)),
        preprocessing=Preprocessing(
            precision=plan.precision,
            position=bench.backbone.position,
            overrides={k: v for k, v in asdict(plan.images).items() if v is not None},
            views={n.view: bench.transform(n.view).recorded() for n in needs} | dict(outcome.views),
        ),
        deviations=tuple(dict.fromkeys((*job.dataset.deviations, *shared, *outcome.deviations))),
        notes=(
            *bench.checkpoint.notes,
            *job.dataset.notes,
            *outcome.notes,
            *moved,
            *sanity.chance(job.dataset, outcome.scores),
        ),
        scores=outcome.scores,
        seed=plan.seed,
        request=digest(job.asked),
        made=provenance(device, seconds) | {"stamp": stamp(job.dataset)} | cost | plugins.provenance(),
    )
    results.write(job.path, result, outcome.predictions)
    return result


def described(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """What results say of a checkpoint called `name`, plain values."""
    head = checkpoint.head
    return {
        "name": name,
        "sha256": checkpoint.sha256,
        "digest": checkpoint.digest,
        "family": checkpoint.family,
        "catalogued": checkpoint.catalogued,
        "branch": checkpoint.branch,
        "container": checkpoint.container,
        "position": checkpoint.position,
        "arch": asdict(checkpoint.arch),
        "parameters": sum(t.numel() for k, t in checkpoint.weights.items() if not k.endswith(MEASURED)) or None,
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "epoch": checkpoint.epoch,
        "trained_seed": checkpoint.trained_seed,
        "head": head and {"kind": head.kind, "scoring": head.scoring, "centering": head.centering},
    }
