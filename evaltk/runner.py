"""Run protocols on checkpoints and data sets: skip what is done, extract once for all that is left, write each result.

What identifies a run (`request`) is made without torch, so that a finished run is recognised in a blink.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import protocols
from evaltk import datasets, files, results
from evaltk.bench import AnyDataset, Bench, ImageOptions, Need, Outcome
from evaltk.errors import SettingsError, nearest
from evaltk.progress import log
from evaltk.provenance import provenance, version
from evaltk.types import EXTRACTION_VERSION, PositionRule, Precision, Result, digest

if TYPE_CHECKING:
    from evaltk.types import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `evaltk run` was asked for.

    Attributes:
        checkpoints: paths or names. protocols: {name: settings}. data: words of ``--data``.
        read: what the user says of the files (keyword arguments of `load_checkpoint`), without those left unsaid.
    """

    checkpoints: tuple[str, ...]
    protocols: Mapping[str, Any]
    data: tuple[str, ...]
    out: Path
    cache: Path
    again: bool = False
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "fp32"
    position: PositionRule = "dino"
    read: Mapping[str, Any] = field(default_factory=dict)
    images: ImageOptions = field(default_factory=ImageOptions)
    batch_size: int | None = None
    workers: int | None = None
    skip_bad_images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One result to be: a checkpoint, a protocol, a data set, and the file it goes into."""

    checkpoint: str
    name: str
    protocol: str
    settings: Any
    dataset: AnyDataset
    asked: Mapping[str, Any]
    path: Path

    def done(self) -> bool:
        """Whether the result is there, and of the data set's files as they are now."""
        return self.path.exists() and results.read(self.path).made.get("stamp") == stamp(self.dataset)


def stamp(dataset: AnyDataset) -> str:
    """Digest of the modification times: a file changed in place makes a result stale."""
    return digest(dataset.stamp)[:16]


def known_protocol(name: str) -> ModuleType:
    """The protocol called `name`. Raises: SettingsError: there is none."""
    registry = protocols.registry()
    if name not in registry:
        raise SettingsError(wanted="a protocol", got=repr(name), where="--protocols", do=nearest(name, registry))
    return registry[name]


def jobs(plan: Plan) -> list[Job]:
    """Every result asked for, in order of checkpoints, data sets, protocols; nothing is run or loaded.

    Raises: SettingsError, DataError, CheckpointError: a name, layout or file that will not do.
    """
    modules = {name: known_protocol(name) for name in plan.protocols}
    found = [datasets.load(word) for word in plan.data]
    _check_kinds(modules, found)
    made = []
    for checkpoint in plan.checkpoints:
        name, identity = identify(checkpoint, plan.read)
        for dataset in found:
            for protocol, settings in plan.protocols.items():
                if modules[protocol].KIND != dataset.KIND:
                    continue
                asked = {
                    "checkpoint": identity,
                    "protocol": protocol,
                    "version": modules[protocol].VERSION,
                    "settings": asdict(settings),
                    "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
                    "images": asdict(plan.images),
                    "precision": plan.precision,
                    "position": plan.position,
                    "extraction": EXTRACTION_VERSION,
                    "seed": plan.seed,
                    "skip_bad_images": plan.skip_bad_images,
                }
                path = results.path_of(plan.out, name, protocol, dataset.name, digest(asked))
                made.append(
                    Job(
                        checkpoint=checkpoint,
                        name=name,
                        protocol=protocol,
                        settings=settings,
                        dataset=dataset,
                        asked=asked,
                        path=path,
                    )
                )
    return made


def _check_kinds(modules: Mapping[str, ModuleType], found: Sequence[AnyDataset]) -> None:
    """Every protocol has a data set of its kind, and every data set a protocol. Raises: SettingsError."""
    for name, module in modules.items():
        if all(module.KIND != dataset.KIND for dataset in found):
            got = ", ".join(f"{d.name} ({d.KIND})" for d in found) or "none"
            raise SettingsError(
                wanted=f"a data set of {module.KIND} for {name}", got=got, where="--data", do="evaltk ls datasets"
            )
    for dataset in found:
        if all(module.KIND != dataset.KIND for module in modules.values()):
            raise SettingsError(
                wanted=f"a protocol for {dataset.KIND}, as {dataset.name} has",
                got=", ".join(modules),
                where="--protocols",
                do="evaltk ls protocols",
            )


def identify(checkpoint: str, read: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(short name, what fixes the weights) of a checkpoint without opening it: sha256 of the file, or the name."""
    from evaltk import catalog

    path = Path(checkpoint)
    if not path.exists() and checkpoint in (known := catalog.load()):
        path = catalog.local_path(known[checkpoint])
    said = {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(read.items())}
    if path.is_file():
        stem = path.name
        for end in (".pth.tar", ".pth", ".pt", ".tar", ".safetensors", ".bin", ".ckpt"):
            stem = stem.removesuffix(end)
        name = checkpoint if path != Path(checkpoint) else stem
        return name, {"sha256": files.sha256(path), "read": said}
    versions = {"timm": version("timm")} if checkpoint.startswith("timm:") else {}
    return checkpoint, {"name": checkpoint, "read": said} | versions


def run(plan: Plan, *, report: Callable[[Job, Result, bool], None]) -> None:
    """Run what is not done; `report(job, result, skipped)` is called for each job in order, on the main process.

    Raises: EvaltkError: the first thing a user must mend; results written before it stay.
    """
    todo = jobs(plan)
    for checkpoint in plan.checkpoints:
        mine = [job for job in todo if job.checkpoint == checkpoint]
        left = [job for job in mine if plan.again or not job.done()]
        for job in mine:
            if job not in left:
                report(job, results.read(job.path), True)
        if left:
            _run_checkpoint(plan, checkpoint, left, report)


def _run_checkpoint(
    plan: Plan, checkpoint: str, left: Sequence[Job], report: Callable[[Job, Result, bool], None]
) -> None:
    from evaltk import distributed
    from evaltk.backbone import build_backbone
    from evaltk.checkpoint import load_checkpoint
    from evaltk.features import Extraction

    loaded = load_checkpoint(checkpoint, **plan.read)
    for note in loaded.notes:
        log.info("%s: %s", left[0].name, note)
    bench = Bench(
        checkpoint=loaded,
        backbone=build_backbone(loaded, device=plan.device, precision=plan.precision, position=plan.position),
        device=plan.device,
        seed=plan.seed,
        cache=plan.cache,
        images=plan.images,
        extraction=Extraction(batch_size=plan.batch_size, workers=plan.workers, skip_bad_images=plan.skip_bad_images),
    )
    for dataset in {id(job.dataset): job.dataset for job in left}.values():
        here = [job for job in left if job.dataset is dataset]
        wanted: list[Need] = [n for job in here for n in protocols.registry()[job.protocol].needs(job.settings)]
        started = time.perf_counter()
        for split in dataset.splits:
            bench.prepare(split, tuple(dict.fromkeys(wanted)))
        extracting = time.perf_counter() - started
        for job in here:
            if distributed.is_main():
                report(job, _run_job(plan, job, bench, extracting), False)
            distributed.barrier()


def _run_job(plan: Plan, job: Job, bench: Bench, extracting: float) -> Result:
    started = time.perf_counter()
    outcome: Outcome = protocols.registry()[job.protocol].run(bench, job.dataset, job.settings)
    seconds = {"extracting": round(extracting, 3), "scoring": round(time.perf_counter() - started, 3)}
    result = Result(
        checkpoint=_describe(job.name, bench.checkpoint),
        protocol=job.protocol,
        version=job.asked["version"],
        settings={
            **job.asked["settings"],
            "dataset": job.asked["dataset"],
            "transforms": {n.view: bench.transform(n.view).text() for n in _needs(job)},
            "precision": plan.precision,
            "position": plan.position,
            "notes": [*bench.checkpoint.notes, *job.dataset.notes, *outcome.notes],
        },
        scores=outcome.scores,
        seed=plan.seed,
        request=digest(job.asked),
        made=provenance(plan.device, seconds) | {"stamp": stamp(job.dataset)},
    )
    results.write(job.path, result, outcome.predictions)
    return result


def _needs(job: Job) -> tuple[Need, ...]:
    return protocols.registry()[job.protocol].needs(job.settings)


def _describe(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": name,
        "sha256": checkpoint.sha256,
        "digest": checkpoint.digest,
        "family": checkpoint.family,
        "branch": checkpoint.branch,
        "arch": asdict(checkpoint.arch),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "epoch": checkpoint.epoch,
    }
