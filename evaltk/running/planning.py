"""What is to be run: a plan of checkpoints, protocols and datasets becomes jobs, each with the file it goes into.

What identifies a job (`asked`) is made without torch, so that a finished one is recognised in a blink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import protocols
from evaltk import datasets, plugins, results, settings_rules
from evaltk.bench import AnyDataset, ImageOptions, Protocol
from evaltk.checkpoints.locate import exists, locate
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.data import limits, sanity
from evaltk.data.options import DataOptions
from evaltk.errors import SettingsError, nearest
from evaltk.machine import version
from evaltk.progress import log
from evaltk.types import EXTRACTION_VERSION, PositionRule, Precision, Result, digest

OF_DINOS_RULE = ("dino", "ibot", "msn", "own", "random", "pixels")  # families
Named = tuple[str, str, Mapping[str, Any]]  # a checkpoint, its name in results, what fixes its weights
DRAWS = 2  # version of the weights of `random:` nets; 2: the same bits on every processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `evaltk run` was asked for.

    Attributes:
        checkpoints: paths or names. protocols: {name: settings}. data: words of ``--data``.
        read: what the user says of the files. position: rule for positions of another size, None: each family's.
        own: what the user says of images of their own.
        pixels: gigabytes of decoded pixels to keep in the cache.
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
    position: PositionRule | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    images: ImageOptions = field(default_factory=ImageOptions)
    own: DataOptions = field(default_factory=DataOptions)
    limit: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    pixels: float = 0.0
    skip_bad_images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One result to be: a checkpoint, a protocol, a dataset, and the file it goes into."""

    checkpoint: str
    name: str
    protocol: str
    settings: Any
    dataset: AnyDataset
    asked: Mapping[str, Any]
    path: Path

    def done(self) -> bool:
        """Whether the result is there, undamaged, and of the dataset's files as they are now."""
        if not self.path.exists():
            return False
        try:
            found = results.read(self.path)
            results.check_predictions(self.path)
        except results.DamagedResult as error:
            log.warning("a damaged result is made anew: %s; where: %s", error.got, error.where)
            return False
        same = found.request == digest(self.asked) and found.made.get("stamp") == stamp(self.dataset)
        return same and not _of_another_rule(found)


def _of_another_rule(found: Result) -> bool:
    """Whether a result is of a time when positions of every net were resized by DINO's rule, and its net has another.

    Results since then say which rule is the net's family's own.
    """
    return "position" not in found.checkpoint and found.checkpoint.get("family") not in OF_DINOS_RULE


def stamp(dataset: AnyDataset) -> str:
    """Digest of the modification times: a file changed in place makes a result stale."""
    return digest(dataset.stamp)[:16]


def known_protocol(name: str) -> Protocol:
    """The protocol called `name`. Raises: SettingsError: there is none."""
    registry = protocols.registry()
    if name not in registry:
        raise SettingsError(wanted="a protocol", got=repr(name), where="--protocols", do=nearest(name, registry))
    return registry[name]


def jobs(plan: Plan) -> list[Job]:
    """Every result asked for, in order of checkpoints, datasets, protocols; nothing is run or loaded.

    Raises: SettingsError, DataError, CheckpointError: a name, layout or file that will not do.
    """
    for name in plan.protocols:
        known_protocol(name)
    named = [(checkpoint, *identify(checkpoint, plan.read)) for checkpoint in dict.fromkeys(plan.checkpoints)]
    datasets.check_options(plan.data, plan.own)
    return jobs_on(plan, named, load_data(plan.data, plan.own), labels(plan.data))


def labels(words: Sequence[str]) -> dict[str, str]:
    """{the name in results: the name in the registry} of ``--data`` words. Raises: SettingsError: an unknown name."""
    return {datasets.parse(word)[0]: datasets.parse(word)[1] for word in words}


def load_data(words: Sequence[str], own: DataOptions) -> list[AnyDataset]:
    """The datasets of ``--data`` words, each once. Raises: SettingsError, DataError."""
    found = [datasets.load(word, own) for word in dict.fromkeys(words)]
    check_labels_apart(found)
    return found


def check_labels_apart(found: Sequence[AnyDataset]) -> None:
    """Two datasets under one label would stand in one column. Raises: SettingsError."""
    known: dict[str, str] = {}
    for dataset in found:
        if known.setdefault(dataset.name, dataset.fingerprint) != dataset.fingerprint:
            raise SettingsError(
                wanted="a label of its own for each dataset",
                got=f"two different datasets called {dataset.name!r}",
                where="--data",
                do=f"name one of them otherwise: --data other-{dataset.name}:NAME=PATH",
            )


def jobs_on(
    plan: Plan,
    named: Sequence[Named],
    found: Sequence[AnyDataset],
    words: Mapping[str, str] | None = None,
) -> list[Job]:
    """The jobs of `plan.protocols` on nets and datasets at hand, in order of nets, datasets, protocols.

    Args:
        named: (the checkpoint, its name in results, what fixes its weights) of each net.
        words: {dataset: its name in the registry}, of those that come from there.

    Raises: as `jobs`.
    """
    if plan.limit is not None:
        found = [limits.limited(dataset, plan.limit, plan.seed) for dataset in found]
    check_kinds(plan.protocols, found)
    return jobs_of(plan, named, found, words or {})


def jobs_of(
    plan: Plan,
    named: Sequence[Named],
    found: Sequence[AnyDataset],
    words: Mapping[str, str],
    keep: Callable[[str, str, AnyDataset], bool] | None = None,
) -> list[Job]:
    """As `jobs_on`, of datasets that are limited already, where the kinds fit and `keep` says so.

    Args:
        keep: (checkpoint, protocol, dataset) -> whether to make this job; all by default.
    """
    chosen = {name: known_protocol(name) for name in plan.protocols}
    _check_feature(chosen, plan.images)
    made = []
    for checkpoint, name, identity in named:
        for dataset in found:
            for protocol, settings in plan.protocols.items():
                if chosen[protocol].kind != dataset.KIND or not (keep is None or keep(checkpoint, protocol, dataset)):
                    continue
                sanity.check_labels(dataset, learns=chosen[protocol].learns(settings))
                chosen[protocol].check(dataset, settings)
                asked = _asked(plan, chosen[protocol], identity, dataset, words.get(dataset.name))
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


def _asked(
    plan: Plan, protocol: Protocol, identity: Mapping[str, Any], dataset: AnyDataset, word: str | None
) -> dict[str, Any]:
    """All that a result depends on; its digest names the result."""
    settings = plan.protocols[protocol.name]
    asked = {
        "checkpoint": identity,
        "protocol": protocol.name,
        "version": protocol.version,
        "settings": settings_rules.stated(settings),
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "images": {k: v for k, v in asdict(plan.images).items() if k != "feature" or v is not None},
        "precision": plan.precision,
        # The family's rule goes by the name that it had when there was one for all (see `Job.done`).
        "position": f"{plan.position}, as asked" if plan.position else "dino",
        "extraction": EXTRACTION_VERSION,
        "seed": plan.seed,
        "skip_bad_images": plan.skip_bad_images,
    }
    asked |= protocol.identity(settings)
    # Code from outside counts as it is now: its file may change without a new version.
    added = protocols.REGISTRY.identity(protocol.name) | _registered(word)
    return asked | ({"plugins": added} if added else {})


def _check_feature(chosen: Mapping[str, Protocol], images: ImageOptions) -> None:
    """Raises: SettingsError: a feature is chosen for a protocol that has one of its own."""
    fixed = [name for name, protocol in chosen.items() if not protocol.chooses_feature]
    if images.feature is not None and fixed:
        raise SettingsError(
            wanted="protocols that are free in their feature",
            got=", ".join(fixed),
            where="--feature",
            do=f"leave {', '.join(fixed)} out, or run them without --feature",
        )


def _registered(word: str | None) -> dict[str, str]:
    return {} if word is None else datasets.REGISTRY.identity(word)


def check_kinds(names: Iterable[str], found: Sequence[AnyDataset]) -> None:
    """Every protocol has a dataset of its kind, and every dataset a protocol. Raises: SettingsError."""
    chosen = {name: known_protocol(name) for name in names}
    for name, protocol in chosen.items():
        if all(protocol.kind != dataset.KIND for dataset in found):
            got = ", ".join(f"{d.name} ({d.KIND})" for d in found) or "none"
            raise SettingsError(
                wanted=f"a dataset of {protocol.kind} for {name}", got=got, where="--data", do="evaltk ls datasets"
            )
    for dataset in found:
        if all(protocol.kind != dataset.KIND for protocol in chosen.values()):
            raise SettingsError(
                wanted=f"a protocol for {dataset.KIND}, as {dataset.name} has",
                got=", ".join(chosen),
                where="--protocols",
                do="evaltk ls protocols",
            )


def identify(checkpoint: str, read: ReadOptions) -> tuple[str, dict[str, Any]]:
    """(short name, what fixes the weights) of a checkpoint without opening it: sha256 of the file, or the name.

    Raises: CheckpointError, DownloadError: no such file, one that was not fetched, or one that cannot be read.
    """
    families = {"family": added} if (added := plugins.identity("FAMILY")) else {}
    if ":" in checkpoint and not checkpoint.startswith("hf:") and not exists(Path(checkpoint)):
        identity: dict[str, Any] = {"name": checkpoint, "read": read.given()}
        if checkpoint.startswith(("timm:", "random:")):
            identity["timm"] = version("timm")
        if checkpoint.startswith("random:"):
            identity["draws"] = DRAWS
        return checkpoint, identity | families
    file = locate(checkpoint)
    return file.name, {"sha256": file.sha256, "read": read.given()} | families
