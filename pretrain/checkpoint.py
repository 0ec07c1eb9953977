"""Checkpoints of a run: written atomically, the previous one kept, in the layout of DINO, iBOT or MSN."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evaltk import distributed, files
from evaltk.checkpoints import rawfile
from evaltk.errors import CheckpointError, EvaltkError
from evaltk.progress import log
from evaltk.types import Arch
from pretrain import resuming
from pretrain.method import Method
from pretrain.recipe import Recipe
from pretrain.state import State

FORMAT = 1
LAST, BEFORE = "checkpoint.pth", "checkpoint.before.pth"
MAY_DIFFER_ON_RESUME = (
    "name", "run.workers", "run.save_minutes", "run.keep_every", "run.log_every", "run.monitor_every", "run.knn",
    "run.compile", "data.source", "data.skip_bad_images",
)  # fmt: skip


class Saver:
    """Writes the checkpoints of one run into a folder; all processes call it, the main one writes."""

    def __init__(self, folder: Path, recipe: Recipe, method: Method[Any], arch: Arch) -> None:
        self.folder, self.recipe, self.method, self.arch = folder, recipe, method, arch
        self.last_saved = time.monotonic()

    def due(self) -> bool:
        """Whether `run.save_minutes` have passed; the main process decides, since clocks differ."""
        due = time.monotonic() - self.last_saved > 60 * self.recipe.run.save_minutes
        return bool(distributed.broadcast_object(due))

    def save(self, state: State[Any], *, keep: str | None = None) -> None:
        """Write a checkpoint; `keep`: also under this name. Raises: StorageError: disk full, or folder not writable."""
        if distributed.is_main():
            write(self.folder, pack(self.recipe, self.method, self.arch, state), keep=keep)
        self.last_saved = time.monotonic()
        distributed.barrier()


def pack(recipe: Recipe, method: Method[Any], arch: Arch, state: State[Any]) -> dict[str, Any]:
    """The file's tree: what evaltk reads, the method's layout, and the position to resume from."""
    config = {
        "method": method.layout,
        "arch": dataclasses.asdict(arch),
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "recipe": dataclasses.asdict(recipe),
    }
    tree: dict[str, Any] = {
        "evaltk_format": FORMAT,
        "config": json.dumps(config),
        "epoch": state.position.epoch,
        "progress": dataclasses.asdict(state.position),
    }
    if state.scaler.is_enabled():
        tree["fp16_scaler"] = state.scaler.state_dict()
    return tree | method.pack(state)


def resume(state: State[Any], recipe: Recipe, method: Method[Any], *, folder: Path, source: str) -> None:
    """Load a checkpoint into `state`: the newest in `folder` (``auto``), none (``never``), or the file `source` names.

    Raises: CheckpointError: it is of another recipe, method or shape.
    """
    if source == "never":
        return
    newest_or_named = newest(folder) if source == "auto" else (Path(source), read(Path(source)))
    if newest_or_named is None:
        return
    path, tree = newest_or_named
    check_same(tree, recipe, path)
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

    Raises: StorageError: disk full, or folder not writable; existing checkpoints are untouched.
    """
    last, before = folder / LAST, folder / BEFORE
    new = folder / f"{LAST}.new"
    files.write(new, lambda stream: torch.save(dict(tree), stream))
    with files.storage_errors(folder):
        if last.exists():
            last.replace(before)
        new.replace(last)
        if keep:
            kept = folder / keep
            kept.unlink(missing_ok=True)
            kept.hardlink_to(last)
    return last


def read(path: Path) -> dict[str, Any]:
    """The tree of a training checkpoint. Raises: CheckpointError: not written by pretrain, or damaged."""
    tree = dict(rawfile.read(path).tree)
    version = tree.get("evaltk_format")
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(
            wanted=f"a training checkpoint of format {FORMAT}", got=repr(version)[:40], where=path,
            do="resume from a checkpoint written by pretrain",
        )  # fmt: skip
    return tree


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """(path, tree) of a run's last checkpoint, or of the one before it if that is damaged (logged), or None."""
    for name in (LAST, BEFORE):
        path = folder / name
        if path.exists():
            try:
                return path, read(path)
            except EvaltkError as error:
                log.warning("%s", error)
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
