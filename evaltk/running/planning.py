"""What is to be run: a plan of checkpoints, protocols and data sets becomes jobs, each with the file it goes into.

What identifies a job (`asked`) is made without torch, so that a finished one is recognised in a blink.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import protocols
from evaltk import datasets, results
from evaltk.bench import AnyDataset, ImageOptions
from evaltk.checkpoints.locate import exists, locate
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import SettingsError, nearest
from evaltk.machine import version
from evaltk.types import EXTRACTION_VERSION, PositionRule, Precision, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `evaltk run` was asked for.

    Attributes:
        checkpoints: paths or names. protocols: {name: settings}. data: words of ``--data``.
        read: what the user says of the files.
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
    read: ReadOptions = field(default_factory=ReadOptions)
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


def identify(checkpoint: str, read: ReadOptions) -> tuple[str, dict[str, Any]]:
    """(short name, what fixes the weights) of a checkpoint without opening it: sha256 of the file, or the name.

    Raises: CheckpointError, DownloadError: no such file, one that was not fetched, or one that cannot be read.
    """
    if ":" in checkpoint and not exists(Path(checkpoint)):
        versions = {"timm": version("timm")} if checkpoint.startswith(("timm:", "random:")) else {}
        return checkpoint, {"name": checkpoint, "read": read.given()} | versions
    file = locate(checkpoint)
    return file.name, {"sha256": file.sha256, "read": read.given()}
