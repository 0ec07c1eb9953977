"""Checkpoints of a run: written atomically, the previous one kept, in the layout of DINO, iBOT or MSN."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from evaltk import checksums, distributed, files, owned, safe_json
from evaltk.checkpoints import rawfile
from evaltk.errors import CheckpointError, StorageError
from evaltk.progress import log
from evaltk.types import Arch
from pretrain import finite, resuming, sameness
from pretrain.background import Writer
from pretrain.incidents import of_config
from pretrain.method import Method
from pretrain.recipe import Recipe
from pretrain.state import State, diverged

FORMAT = 1
LAST, BEFORE, DAMAGED = "checkpoint.pth", "checkpoint.before.pth", "checkpoint.damaged.pth"
EPOCH = re.compile(r"checkpoint-epoch([0-9]+)\.pth")  # kept ones


class Saver:
    """Writes the checkpoints of a run in the background; all processes call it, the main one writes."""

    def __init__(
        self, folder: Path, recipe: Recipe, method: Method[Any], arch: Arch, images: sameness.Images | None = None
    ) -> None:
        self.folder, self.recipe, self.method, self.arch, self.images = folder, recipe, method, arch, images
        self.last_saved = time.monotonic()
        self.writer = Writer(recipe.run.disk_minutes, str(folder / LAST))

    def due(self) -> bool:
        """Whether `run.save_minutes` have passed and nothing is being written; the main process decides.

        Raises: StorageError: the checkpoint before could not be written.
        """
        late = time.monotonic() - self.last_saved > 60 * self.recipe.run.save_minutes
        return bool(distributed.broadcast_object(not self.writer.busy() and late))

    def save(self, state: State[Any], *, keep: str | None = None, wait: bool = False) -> None:
        """Write a checkpoint of the state as it is now, once the one before is written.

        Args:
            keep: also under this name. wait: until it is on the disk, on every process.

        Raises: StorageError: disk full, or folder not writable. Diverged: a value in it is not finite.
        """
        if (found := finite.in_state(state)) is not None:  # the same in all processes
            got = f"{found[1]} in {found[0]} after {state.position.step} steps"
            raise diverged(got, self.folder, finite.advice(self.recipe), self.kept())
        if distributed.is_main():
            self.writer.wait()  # before the copy, so that there is one at a time
            tree = _copied(pack(self.recipe, self.method, self.arch, state, self.images))
            last = self.recipe.run.keep_last
            self.writer.start(lambda: write(self.folder, tree, keep=keep, last=last))
            if wait:
                self.writer.wait()
        self.last_saved = time.monotonic()
        if wait:
            distributed.barrier()

    def newest(self) -> Path | None:
        """The newest checkpoint that there is, once none is being written."""
        self.writer.settle()
        return next((self.folder / name for name in (LAST, BEFORE) if (self.folder / name).exists()), None)

    def kept(self) -> str:
        """The newest checkpoint in words, to follow others; empty where there is none."""
        path = self.newest()
        return "" if path is None else f"; the last good checkpoint is {path}"

    def load_newest(self, state: State[Any]) -> None:
        """Put the state back to the newest checkpoint. All processes call it. Raises: CheckpointError."""
        self.writer.settle()
        resume(state, self.recipe, self.method, folder=self.folder, source="auto", images=self.images)


def _copied(tree: Any) -> Any:
    """A tree with tensors of its own, on the CPU; the next step changes those of the run."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone() if tree.device.type == "cpu" else tree.detach().cpu()
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    return type(tree)(map(_copied, tree)) if type(tree) in (list, tuple) else tree


def pack(
    recipe: Recipe, method: Method[Any], arch: Arch, state: State[Any], images: sameness.Images | None = None
) -> dict[str, Any]:
    """The file's tree: what evaltk reads, the method's layout, and the position to resume from."""
    config = {
        "method": method.layout,
        "arch": dataclasses.asdict(arch),
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "recipe": dataclasses.asdict(recipe),
        "images": None if images is None else images.told,
        "incidents": dataclasses.asdict(state.incidents),
        "surroundings": sameness.surroundings(state.device),
    }
    tree: dict[str, Any] = {
        "evaltk_format": FORMAT,
        "config": json.dumps(config),
        "epoch": state.position.epoch,
        "progress": dataclasses.asdict(state.position),
    }
    if images is not None and images.files is not None:
        tree[sameness.FILES] = images.files
    if state.scaler.is_enabled():
        tree["fp16_scaler"] = state.scaler.state_dict()
    return tree | method.pack(state)


def resume(
    state: State[Any], recipe: Recipe, method: Method[Any], *, folder: Path, source: str, images: sameness.Images | None
) -> None:
    """Load a checkpoint into `state`: the newest in `folder` (``auto``), none (``never``), or the file `source` names.

    Raises: CheckpointError: it is of another recipe, method or shape, or of other images.
    """
    if source == "never":
        return
    path = Path(source)
    if source == "auto":
        # One process looks, since it sets damaged ones aside.
        there = distributed.broadcast_object(str(newest(folder) or "") if distributed.is_main() else "")
        if not there:
            return
        path = Path(str(there))
    tree = read(path)
    sameness.check_recipe(tree, recipe, path)
    if images is not None:
        sameness.check_images(tree, images, path)
    sameness.say_surroundings(tree, state.device)
    settings = resuming.fixed_settings(state.optimizer)
    try:
        method.unpack(tree, state)
        if "fp16_scaler" in tree:
            state.scaler.load_state_dict(tree["fp16_scaler"])
        state.position = resuming.position_in(tree)
        state.incidents = of_config(safe_json.parse(tree["config"]).get("incidents"))
        resuming.check(state, method.centers(recipe.method, torch.device("cpu")), settings)
    except Exception as error:  # torch's loading raises nearly anything for a tree of another form
        raise CheckpointError(
            wanted="a checkpoint of this network",
            got=(str(error).splitlines() or [type(error).__name__])[0][:160],
            where=path,
            do="start afresh with --resume never, or choose another --out",
        ) from error
    if distributed.is_main():
        log.info("resuming from %s: epoch %d, step %d", path, state.position.epoch, state.position.step)


def write(folder: Path, tree: Mapping[str, Any], *, keep: str | None = None, last: int = 2) -> Path:
    """Write the last checkpoint, read it back and compare; the ones before it stay, `last` in all.

    A kill at any moment leaves a last checkpoint that is whole; its epoch's kept one is there before it.

    Args:
        keep: also under this name.

    Raises: StorageError: disk full, folder not writable, or a disk that does not give back what was written;
        existing checkpoints are untouched.
    """
    files.make_folder(folder)
    newest_file = folder / LAST
    with (
        files.storage_errors(folder),
        files.temporary(newest_file, lambda stream: torch.save(dict(tree), stream)) as new,
    ):
        _check_written(new, newest_file)
        if keep:
            _link(new, folder / keep)
        if newest_file.exists():
            for number in range(last - 2, 0, -1):
                if before(folder, number).exists():
                    before(folder, number).replace(before(folder, number + 1))
            if last > 1:
                _link(newest_file, before(folder, 1))
        new.replace(newest_file)
    return newest_file


def before(folder: Path, number: int) -> Path:
    """The file that was the last checkpoint `number` saves ago."""
    return folder / (BEFORE if number == 1 else f"checkpoint.before{number}.pth")


def _check_written(path: Path, where: Path) -> None:
    try:
        checksums.forget(path)
        checksums.check_zip(path)
    except checksums.Damaged as error:
        do = "check the disk; the checkpoints before are kept"
        raise StorageError(wanted="a disk that keeps what is written", got=str(error), where=where, do=do) from error


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


class DamagedCheckpoint(CheckpointError):
    """A file that is not as it was written."""


def read(path: Path) -> dict[str, Any]:
    """The tree of a training checkpoint. Raises: CheckpointError: not written by pretrain, or damaged."""
    try:
        checksums.check_zip(path)
    except (checksums.Damaged, OSError) as error:
        do = "resume from another checkpoint"
        kind = CheckpointError if isinstance(error, OSError) else DamagedCheckpoint
        raise kind(wanted="a checkpoint as it was written", got=str(error), where=path, do=do) from error
    tree = dict(rawfile.read(path).tree)
    version = tree.get("evaltk_format")
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(
            wanted=f"a training checkpoint of format {FORMAT}", got=repr(version)[:40], where=path,
            do="resume from a checkpoint written by pretrain",
        )  # fmt: skip
    return tree


def newest(folder: Path) -> Path | None:
    """A run's last checkpoint, or the newest whole one where that is damaged or gone; None: the folder holds no run.

    Damaged ones are named and set aside.

    Raises: CheckpointError: all are damaged: a run is never begun anew where one has been.
    """
    if not folder.is_dir():
        return None
    names = [path.name for path in folder.iterdir()]
    kept = sorted(name for name in names if EPOCH.fullmatch(name))
    earlier = sorted(name for name in names if name.startswith("checkpoint.before") and name.endswith(".pth"))
    bad = [name for name in names if name == DAMAGED]
    if LAST in names and _whole(folder / LAST, bad) is not None:
        return folder / LAST
    steps = {folder / name: _whole(folder / name, bad) for name in (*earlier, *reversed(kept))}
    whole = {path: step for path, step in steps.items() if step is not None}
    if whole:
        chosen = max(whole, key=lambda path: whole[path])
        log.warning("the newest whole checkpoint is taken: %s, of step %d", chosen, whole[chosen])
        return chosen
    if bad:
        raise CheckpointError(
            wanted="a whole checkpoint to go on from", got=f"damaged ones only ({', '.join(bad[:4])})", where=folder,
            do="restore one, or start afresh with --resume never or another --out",
        )  # fmt: skip
    return None


def _whole(path: Path, bad: list[str]) -> int | None:
    """The step of a whole checkpoint; None for a damaged one, which is set aside, unless it is a kept one."""
    try:
        return resuming.position_in(read(path)).step
    except (DamagedCheckpoint, ValueError) as error:
        aside = not EPOCH.fullmatch(path.name)
        bad.append(DAMAGED if aside else path.name)
        got = error.got if isinstance(error, DamagedCheckpoint) else str(error)
        where = f"set aside as {DAMAGED}" if aside else "left out"
        log.warning("a damaged checkpoint is %s: %s; where: %s", where, got, path)
        if aside:
            with files.storage_errors(path), suppress(FileNotFoundError):
                path.replace(path.with_name(DAMAGED))
        return None
