"""Whether a checkpoint is of this run: the same recipe and the same images; what else may change is said."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaltk import distributed, machine, safe_json
from evaltk.errors import CheckpointError, DataError
from evaltk.progress import log
from pretrain import resuming
from pretrain.data.sources import FolderSource, Source, ZipSource
from pretrain.incidents import of_config
from pretrain.recipe import Recipe

FILES = "image_files"  # key of a checkpoint: what was known of each file
LOOKED_AT = 8  # training images whose pixels tell one set from another
MAY_DIFFER_ON_RESUME = (
    "name", "run.workers", "run.save_minutes", "run.keep_every", "run.keep_last", "run.disk_minutes",
    "run.patience_minutes", "run.log_every", "run.monitor_every", "run.knn", "run.compile", "data.source",
    "data.skip_bad_images",
)  # fmt: skip
RESTORE = "restore them, choose another --out, or start afresh with --resume never"
SCHEDULE = "finish with the old number: the rates of every step depend on it; or choose another folder"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """What tells one set of training images from another.

    Attributes:
        told: for a checkpoint: their `count`; `digests` of the pixels of some (None: unreadable); `names`, a digest of
            all names; `kind` of source, as names depend on it.
        files: int64 [count], a CRC-32 of each file's size or checksum; None where the source has no files.
        source: the images themselves.
    """

    told: Mapping[str, Any]
    files: torch.Tensor | None
    source: Source

    def readable(self, index: int) -> bool:
        """Whether an image can be opened."""
        try:
            self.source.open(index)
        except DataError:
            return False
        return True


def identity(source: Source) -> Images:
    """What tells these images from others; opens some of them."""
    digests: list[str | None] = []
    for index in sorted({round(i * (len(source) - 1) / (LOOKED_AT - 1)) for i in range(LOOKED_AT)}):
        try:
            digests.append(hashlib.sha256(np.asarray(source.open(index)).tobytes()).hexdigest()[:16])
        except DataError:
            digests.append(None)
    names = [source.image_id(index) for index in range(len(source))]
    told = {"count": len(source), "digests": digests, "names": _digest(names), "kind": type(source).__name__}
    sizes = _sizes(source)
    files = None if sizes is None else torch.tensor([zlib.crc32(str(size).encode()) for size in sizes])
    return Images(told=told, files=files, source=source)


def _digest(values: Sequence[object]) -> str:
    whole = hashlib.sha256()
    for value in values:
        whole.update(f"{value}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()[:16]


def _sizes(source: Source) -> Sequence[object] | None:
    """What a folder or an archive says of each file; None for other sources, which check that themselves."""
    if isinstance(source, FolderSource):
        return [_size(source.path / name) for name in source.names]
    if isinstance(source, ZipSource):
        return source.checksums()
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def check_images(tree: Mapping[str, Any], images: Images, path: Path) -> None:
    """Raises: CheckpointError: it was trained on other images; files of earlier versions do not tell."""
    config = safe_json.parse(tree["config"])
    then, now = config.get("images"), images.told
    if then is None:
        return
    if not (isinstance(then, Mapping) and isinstance(then.get("count"), int) and isinstance(then.get("digests"), list)):
        do = "resume from another checkpoint"
        raise CheckpointError(wanted="the images that the run began with", got="no list", where=path, do=do)
    same = [a == b for a, b in zip(then["digests"], now["digests"], strict=False) if a and b]
    got = ""
    if then["count"] != now["count"]:
        got = f"{now['count']:,}"
    elif not all(same):
        got = f"others ({same.count(False)} of {len(same)} looked at)"
    elif then.get("kind") == now["kind"] and then.get("names") != now["names"]:
        got = "as many with other names"
    elif then.get("kind") == now["kind"] and (name := _replaced(tree.get(FILES), images, config)):
        got = f"some of the same name with other content (files of another size or checksum), such as {name}"
    if got:
        wanted = f"the {then['count']:,} images that the run began with"
        raise CheckpointError(wanted=wanted, got=got, where=path, do=RESTORE)


def _replaced(then: object, images: Images, config: Mapping[str, Any]) -> str:
    """The first image whose file has changed; not one that was unreadable and is restored, or is unreadable by now."""
    now = images.files
    if now is None or not isinstance(then, torch.Tensor) or then.shape != now.shape:
        return ""
    try:
        counted = set(of_config(config.get("incidents")).unreadable)
    except ValueError:  # which the loading of the rest says
        counted = set()
    for index in (then != now).nonzero().flatten().tolist():
        name = images.source.image_id(index)
        if name not in counted and images.readable(index):
            return name
    return ""


def check_recipe(tree: Mapping[str, Any], recipe: Recipe, path: Path) -> None:
    """A key that the checkpoint lacks, of a version before it was there, had the value that is the default now.

    Raises: CheckpointError: settings differ from the checkpoint's, except those in MAY_DIFFER_ON_RESUME.
    """
    then, now = _flat(resuming.recipe_in(tree, path)), _plain(recipe)
    before = _plain(dataclasses.replace(Recipe(), method=type(recipe.method)()))
    differ = [
        f"{key} was {str(then.get(key, before.get(key)))[:40]}, is {now.get(key, 'unknown to this version')}"
        for key in dict.fromkeys((*now, *then))
        if key not in MAY_DIFFER_ON_RESUME and then.get(key, before.get(key)) != now.get(key)
    ]
    if differ:
        schedule = all(text.startswith("optim.epochs ") for text in differ)
        new = f"--out {_free(path.parent)} for a run of its own"
        again = f"{new}; or take the same recipe; or begin anew by --resume never"
        do = f"{SCHEDULE}: {new}" if schedule else again
        raise CheckpointError(wanted="a checkpoint of this recipe", got="; ".join(differ[:4]), where=path, do=do)


def _free(folder: Path) -> Path:
    """A folder beside this one that is not there."""
    return next(p for n in itertools.count(2) if not (p := folder.with_name(f"{folder.name}-{n}")).exists())


def _plain(recipe: Recipe) -> dict[str, Any]:
    return _flat(json.loads(json.dumps(dataclasses.asdict(recipe))))


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def surroundings(device: torch.device) -> dict[str, Any]:
    """What a run goes on without, though not to the bit: processes, kind of device, torch, processor."""
    return {
        "processes": distributed.world_size(),
        "device": device.type,
        "torch": machine.version("torch"),
        "processor": platform.machine(),
    }


def say_surroundings(tree: Mapping[str, Any], device: torch.device) -> None:
    """Log what differs; checkpoints of earlier versions do not tell."""
    then = safe_json.parse(tree["config"]).get("surroundings")
    now = surroundings(device)
    if not isinstance(then, Mapping) or not distributed.is_main():
        return
    differ = [f"{key} {then[key]}, now {now[key]}" for key in now if key in then and then[key] != now[key]]
    if differ:
        log.warning("the run goes on, but not to the same bits: it had %s", "; ".join(differ))
