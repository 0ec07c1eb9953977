"""Run protocols on checkpoints and datasets: skip what is done, extract once for all else, write each result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from evaltk import crew, launchers, plugins, progress, results
from evaltk.bench import Bench, Extracts, Need, nothing_to_prepare
from evaltk.data import sanity
from evaltk.errors import CheckpointError
from evaltk.machine import provenance, resolve_device
from evaltk.progress import log
from evaltk.running.planning import Job, Plan, identify, jobs, known_protocol, stamp
from evaltk.types import Deviation, Preprocessing, Result, ResultData, digest

if TYPE_CHECKING:
    from evaltk.data.images import Split
    from evaltk.types import Checkpoint

__all__ = [
    "Job", "Plan", "bench_of", "bench_with", "described", "identify", "jobs", "known_protocol", "measured", "run",
    "stamp", "wanted",
]  # fmt: skip

MEASURED = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm: no parameters


def run(plan: Plan, *, report: Callable[[Job, Result, bool], None]) -> None:
    """Run what is not done; `report(job, result, skipped)` is called for each job in order, on the main process.

    Raises: EvaltkError: the first error a user can fix; results written before it are kept.
    """
    todo = jobs(plan)
    number = 0
    for checkpoint in dict.fromkeys(job.checkpoint for job in todo):
        mine = [job for job in todo if job.checkpoint == checkpoint]
        left = _agreed([plan.again or not job.done() for job in mine])
        todo_here = [job for job, wanted in zip(mine, left, strict=True) if wanted]
        for job in todo_here:
            results.prepare(job.path)
        made = _run_checkpoint(plan, todo_here)
        for job, wanted in zip(mine, left, strict=True):
            number += 1
            with progress.about(f"[{number}/{len(todo)}] {job.name}"):
                result = next(made) if wanted else results.read(job.path)
            if result is not None and _is_main():
                report(job, result, not wanted)


def _agreed(value: list[bool]) -> list[bool]:
    """Rank 0's `value` on every process: each looks at another moment, and rank 0 may have written a result since."""
    if not _several():  # no need to wait for the import of torch
        return value
    from evaltk import distributed

    return list(distributed.broadcast_object(value))  # type: ignore[call-overload]


def _several() -> bool:
    """Whether torchrun started more than this process."""
    return launchers.place(os.environ) is not None


def _is_main() -> bool:
    if not _several():
        return True
    from evaltk import distributed

    return distributed.is_main()


def _run_checkpoint(plan: Plan, left: Sequence[Job]) -> Iterator[Result | None]:
    """The results of jobs on one checkpoint, one by one and written; None on processes other than the main one."""
    if left:
        yield from measured(plan, left, bench_of(plan, left))


def measured(plan: Plan, left: Sequence[Job], bench: Bench) -> Iterator[Result | None]:
    """The results of jobs on one net, one by one and written; None on processes other than the main one."""
    from evaltk import distributed

    for dataset in {id(job.dataset): job.dataset for job in left}.values():
        here = [job for job in left if job.dataset is dataset]
        started = time.perf_counter()
        learning = any(known_protocol(job.protocol).learns(job.settings) for job in here)
        shared = sanity.shared_images(dataset) if learning and distributed.is_main() else ()
        for split, needs in wanted(here, bench):
            crew.doing(f"features of {split.dataset} {split.name}")
            bench.prepare(split, needs)
        for job in here:
            crew.doing(f"{job.protocol} on {job.name}")
            known_protocol(job.protocol).prepare(bench, dataset, job.settings)
        extracting = time.perf_counter() - started
        for job in here:
            result = _run_job(plan, job, bench, extracting, shared) if distributed.is_main() else None
            distributed.barrier()
            yield result


def bench_of(plan: Plan, left: Sequence[Job]) -> Bench:
    """The net of one checkpoint, ready for its jobs `left` (at least one).

    Raises: CheckpointError, SettingsError: a file that cannot be used or is another by now, a device or size that will
        not do.
    """
    with progress.status("loading torch"):
        from evaltk.checkpoints.load import load

        device = device_of(plan, left)
    with progress.status("reading the weights"):
        loaded = load(left[0].checkpoint, plan.read)
    _check_unchanged(left[0], loaded)
    for note in loaded.notes:
        log.info("%s: %s", left[0].name, note)
    for job in left:
        known_protocol(job.protocol).check_checkpoint(loaded)
    return bench_with(plan, loaded, device)


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
        extraction=Extraction(batch_size=plan.batch_size, workers=plan.workers, skip_bad_images=plan.skip_bad_images),
    )


def device_of(plan: Plan, left: Sequence[Job]) -> str:
    """The device of the forward passes of jobs `left`. Raises: SettingsError: it is not on this machine."""
    # Protocols that pass images themselves sum in float64 where the net is.
    features_only = all(known_protocol(job.protocol).prepare is nothing_to_prepare for job in left)
    return resolve_device(plan.device, mps=features_only)


def wanted(here: Sequence[Job], bench: Bench) -> list[tuple[Split, tuple[Need, ...]]]:
    """Each split of a dataset with all that its protocols need of it, so that one pass serves all of them."""
    merged: dict[tuple[str, str], tuple[Split, list[Need]]] = {}
    for job in here:
        for split, needs in extracts_of(job, bench):
            merged.setdefault((split.name, split.fingerprint), (split, []))[1].extend(needs)
    return [(split, tuple(dict.fromkeys(needs))) for split, needs in merged.values()]


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


def _run_job(plan: Plan, job: Job, bench: Bench, extracting: float, shared: tuple[Deviation, ...]) -> Result:
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
            *sanity.chance(job.dataset, outcome.scores),
        ),
        scores=outcome.scores,
        seed=plan.seed,
        request=digest(job.asked),
        made=provenance(device, seconds) | {"stamp": stamp(job.dataset)} | plugins.provenance(),
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
