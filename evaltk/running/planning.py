"""What is to be run: a plan of checkpoints, protocols and data sets becomes jobs, each with the file it goes into.

What identifies a job (`asked`) is made without torch, so that a finished one is recognised in a blink.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import protocols
from evaltk import datasets, files, results
from evaltk.bench import AnyDataset, ImageOptions
from evaltk.data import limits
from evaltk.errors import CheckpointError, SettingsError, nearest
from evaltk.machine import version
from evaltk.types import EXTRACTION_VERSION, PositionRule, Precision, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `evaltk run` was asked for.

    Attributes:
        checkpoints: paths or names. protocols: {name: settings}. data: words of ``--data``.
        read: what the user says of the files (keyword arguments of `load_checkpoint`), without those left unsaid.
        device: as `resolve_device` takes it. limit: images per split (see `evaltk.data.limits`); None: all.
    """

    checkpoints: tuple[str, ...]
    protocols: Mapping[str, Any]
    data: tuple[str, ...]
    out: Path
    cache: Path
    again: bool = False
    seed: int = 0
    device: str = "auto"
    precision: Precision = "fp32"
    position: PositionRule = "dino"
    read: Mapping[str, Any] = field(default_factory=dict)
    images: ImageOptions = field(default_factory=ImageOptions)
    limit: int | None = None
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
        if not self.path.exists():
            return False
        found = results.read(self.path)
        return found.request == digest(self.asked) and found.made.get("stamp") == stamp(self.dataset)


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
    named = [(checkpoint, *identify(checkpoint, plan.read)) for checkpoint in dict.fromkeys(plan.checkpoints)]
    found = [datasets.load(word) for word in dict.fromkeys(plan.data)]
    if plan.limit is not None:
        found = [limits.limited(dataset, plan.limit, plan.seed) for dataset in found]
    _check_kinds(modules, found)
    made = []
    for checkpoint, name, identity in named:
        for dataset in found:
            for protocol, settings in plan.protocols.items():
                if modules[protocol].KIND != dataset.KIND:
                    continue
                if hasattr(modules[protocol], "check"):
                    modules[protocol].check(dataset, settings)
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
                if hasattr(modules[protocol], "identity"):
                    asked |= modules[protocol].identity(settings)
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
    """(short name, what fixes the weights) of a checkpoint without opening it: sha256 of the file, or the name.

    Raises: CheckpointError: no such file, or one that was not fetched or cannot be read.
    """
    from evaltk.checkpoints import catalog

    path = Path(checkpoint)
    if not path.exists() and checkpoint in (known := catalog.load()):
        path = catalog.local_path(known[checkpoint])
        if not path.exists():
            do = f"run: evaltk fetch {checkpoint}"
            raise CheckpointError(wanted=f"the fetched file of {checkpoint}", got="none", where=path, do=do)
    elif not path.exists() and ":" not in checkpoint:
        close = difflib.get_close_matches(checkpoint, known, n=1)
        do = f"did you mean {close[0]!r}?" if close else "check the path; `evaltk ls checkpoints` shows other names"
        raise CheckpointError(wanted="a weight file or a catalogue name", got="neither", where=checkpoint, do=do)
    if path.is_dir():
        raise CheckpointError(wanted="a weight file", got="a folder", where=path, do="name one file inside it")
    said = {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(read.items())}
    if path.is_file():
        name = checkpoint if path != Path(checkpoint) else files.weights_name(path)
        try:
            return name, {"sha256": files.sha256(path), "read": said}
        except OSError as error:
            do = "check its permissions"
            raise CheckpointError(wanted="a file that can be read", got=str(error), where=path, do=do) from error
    versions = {"timm": version("timm")} if checkpoint.startswith(("timm:", "random:")) else {}
    return checkpoint, {"name": checkpoint, "read": said} | versions
