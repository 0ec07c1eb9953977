"""Checkpoints of a run: written atomically, the previous one kept, in the layout of DINO, iBOT or MSN."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from evaltk import checksums, distributed, files, owned
from evaltk.checkpoints import rawfile
from evaltk.errors import CheckpointError, DataError
from evaltk.progress import log
from evaltk.types import Arch
from pretrain import resuming
from pretrain.data.sources import Source
from pretrain.method import Method
from pretrain.recipe import Recipe
from pretrain.state import State, diverged

FORMAT = 1
LAST, BEFORE, DAMAGED = "checkpoint.pth", "checkpoint.before.pth", "checkpoint.damaged.pth"
LOOKED_AT = 8  # training images whose pixels tell one set from another
MAY_DIFFER_ON_RESUME = (
    "name", "run.workers", "run.save_minutes", "run.keep_every", "run.log_every", "run.monitor_every", "run.knn",
    "run.compile", "data.source", "data.skip_bad_images",
)  # fmt: skip


class Saver:
    """Writes the checkpoints of one run into a folder; all processes call it, the main one writes."""

    def __init__(
        self, folder: Path, recipe: Recipe, method: Method[Any], arch: Arch, images: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.recipe, self.method, self.arch, self.images = folder, recipe, method, arch, images
        self.last_saved = time.monotonic()

    def due(self) -> bool:
        """Whether `run.save_minutes` have passed; the main process decides, since clocks differ."""
        due = time.monotonic() - self.last_saved > 60 * self.recipe.run.save_minutes
        return bool(distributed.broadcast_object(due))

    def save(self, state: State[Any], *, keep: str | None = None) -> None:
        """Write a checkpoint; `keep`: also under this name.

        Raises: StorageError: disk full, or folder not writable. Diverged: a weight is not finite.
        """
        for net, called in ((state.network, "student"), (state.teacher, "teacher")):  # the same in all processes
            for name, tensor in net.state_dict().items():
                if not bool(torch.isfinite(tensor).all()):
                    got = f"NaN or infinity in the {called}'s {name} after step {state.position.step}"
                    raise diverged(got, self.folder, self.folder / LAST)
        if distributed.is_main():
            write(self.folder, pack(self.recipe, self.method, self.arch, state, self.images), keep=keep)
        self.last_saved = time.monotonic()
        distributed.barrier()


def identity(source: Source) -> dict[str, Any]:
    """What tells one set of training images from another: their number, and digests of some (None: unreadable)."""
    digests: list[str | None] = []
    for index in sorted({round(i * (len(source) - 1) / (LOOKED_AT - 1)) for i in range(LOOKED_AT)}):
        try:
            digests.append(hashlib.sha256(np.asarray(source.open(index)).tobytes()).hexdigest()[:16])
        except DataError:
            digests.append(None)
    return {"count": len(source), "digests": digests}


def check_images(tree: Mapping[str, Any], images: Mapping[str, Any], path: Path) -> None:
    """Raises: CheckpointError: it was trained on other images; files of earlier versions do not tell."""
    then = json.loads(tree["config"]).get("images")
    if then is None:
        return
    if not (isinstance(then, Mapping) and isinstance(then.get("count"), int) and isinstance(then.get("digests"), list)):
        do = "resume from another checkpoint"
        raise CheckpointError(wanted="the images that the run began with", got="no list", where=path, do=do)
    same = [a == b for a, b in zip(then["digests"], images["digests"], strict=False) if a and b]
    if then["count"] != images["count"] or not all(same):
        others = f"others ({same.count(False)} of {len(same)} looked at)"
        got = f"{images['count']:,}" if then["count"] != images["count"] else others
        do = "restore them, choose another --out, or start afresh with --resume never"
        wanted = f"the {then['count']:,} images that the run began with"
        raise CheckpointError(wanted=wanted, got=got, where=path, do=do)


def pack(
    recipe: Recipe, method: Method[Any], arch: Arch, state: State[Any], images: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The file's tree: what evaltk reads, the method's layout, and the position to resume from."""
    config = {
        "method": method.layout,
        "arch": dataclasses.asdict(arch),
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "recipe": dataclasses.asdict(recipe),
        "images": images,
    }
    tree: dict[str, Any] = {
        "evaltk_format": FORMAT,
        "config": json.dumps(config),
        "epoch": state.position.epoch,
        "progress": dataclasses.asdict(state.position),
    }
    if state.scaler.is_enabled():
        tree["fp16_scaler"] = state.scaler.state_dict()
    return on_host(tree | method.pack(state))


def on_host(tree: Any) -> Any:
    """The tree with its tensors on the host: a file written on a GPU opens on a machine without one."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().cpu()
    if isinstance(tree, Mapping):
        return {key: on_host(value) for key, value in tree.items()}
    return type(tree)(on_host(value) for value in tree) if isinstance(tree, list | tuple) else tree


def resume(
    state: State[Any], recipe: Recipe, method: Method[Any], *, folder: Path, source: str, images: Mapping[str, Any]
) -> None:
    """Load a checkpoint into `state`: the newest in `folder` (``auto``), none (``never``), or the file `source` names.

    Raises: CheckpointError: it is of another recipe, method or shape, or of other images.
    """
    if source == "never":
        return
    newest_or_named = newest(folder) if source == "auto" else (Path(source), read(Path(source)))
    if newest_or_named is None:
        return
    path, tree = newest_or_named
    check_same(tree, recipe, path)
    check_images(tree, images, path)
    settings = resuming.fixed_settings(state.optimizer)
    try:
        method.unpack(tree, state)
        if "fp16_scaler" in tree:
            state.scaler.load_state_dict(tree["fp16_scaler"])
        state.position = resuming.position_in(tree)
        resuming.check(state, method.centers(recipe.method, torch.device("cpu")), settings)
    except Exception as error:  # torch's loading raises nearly anything for a tree of another form
        raise CheckpointError(
            wanted="a checkpoint of this network",
            got=(str(error).splitlines() or [type(error).__name__])[0][:160],
            where=path,
            do="start afresh with --resume never, or choose another --out",
        ) from error
    log.info("resuming from %s: epoch %d, step %d", path, state.position.epoch, state.position.step)


def write(folder: Path, tree: Mapping[str, Any], *, keep: str | None = None) -> Path:
    """Write the last checkpoint; the one before it stays until the new one is complete. `keep`: also under this name.

    A kill at any moment leaves a last checkpoint that is whole; its epoch's kept one is there before it.

    Raises: StorageError: disk full, or folder not writable; existing checkpoints are untouched.
    """
    files.make_folder(folder)
    last, before = folder / LAST, folder / BEFORE
    with (
        files.storage_errors(folder),
        files.temporary(last, lambda stream: torch.save(dict(tree), stream)) as new,
    ):
        if keep:
            _link(new, folder / keep)
        if last.exists():
            _link(last, before)
        new.replace(last)
    return last


def _link(path: Path, name: Path) -> None:
    """Give a file a second name in one step; a copy where the file system has no links."""
    new = owned.temporary(name)
    try:
        try:
            new.hardlink_to(path)
        except OSError:
            files.write(name, lambda stream: _copy(path, stream))
            return
        new.replace(name)
    finally:
        new.unlink(missing_ok=True)


def _copy(path: Path, stream: BinaryIO) -> None:
    with path.open("rb") as source:
        shutil.copyfileobj(source, stream, 1 << 20)


def read(path: Path) -> dict[str, Any]:
    """The tree of a training checkpoint. Raises: CheckpointError: not written by pretrain, or damaged."""
    try:
        checksums.check_zip(path)
    except (checksums.Damaged, OSError) as error:
        do = "resume from another checkpoint"
        raise CheckpointError(wanted="a checkpoint as it was written", got=str(error), where=path, do=do) from error
    tree = dict(rawfile.read(path).tree)
    version = tree.get("evaltk_format")
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(
            wanted=f"a training checkpoint of format {FORMAT}", got=repr(version)[:40], where=path,
            do="resume from a checkpoint written by pretrain",
        )  # fmt: skip
    return tree


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """(path, tree) of a run's last checkpoint, or of the one before it where that is damaged; None: there is none.

    A damaged one is named and set aside.
    """
    for name in (LAST, BEFORE):
        path = folder / name
        if path.exists():
            try:
                return path, read(path)
            except CheckpointError as error:
                log.warning("a damaged checkpoint is set aside as %s: %s; where: %s", DAMAGED, error.got, path)
                with files.storage_errors(path), suppress(FileNotFoundError):  # another process may have moved it
                    path.replace(folder / DAMAGED)
    return None


def check_same(tree: Mapping[str, Any], recipe: Recipe, path: Path) -> None:
    """Raises: CheckpointError: settings differ from the checkpoint's, except those in MAY_DIFFER_ON_RESUME."""
    then, now = _flat(resuming.recipe_in(tree, path)), _flat(json.loads(json.dumps(dataclasses.asdict(recipe))))
    fixed = [key for key in now if key not in MAY_DIFFER_ON_RESUME]
    differ = [f"{key} was {str(then.get(key))[:40]}, is {now[key]}" for key in fixed if then.get(key) != now[key]]
    if differ:
        raise CheckpointError(
            wanted="a checkpoint of this recipe", got="; ".join(differ[:4]), where=path,
            do="resume with the same recipe, choose another --out, or pass --resume never",
        )  # fmt: skip


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
