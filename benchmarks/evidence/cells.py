"""A cell: its training, resumed where it was cut off, and its measures, in one small file."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence import measures
from benchmarks.evidence.suite import Cell
from evaltk import files
from evaltk.errors import StorageError
from pretrain import loop
from pretrain.logfile import LOG
from pretrain.state import Diverged

FORMAT = 1


def path_of(results: Path, cell: Cell) -> Path:
    """The cell's result file."""
    return results / cell.suite / f"{cell.name}.json"


def read(path: Path) -> dict[str, Any]:
    """A result. Raises: StorageError: damaged, or of another format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] == FORMAT:
            return dict(found)
        got = f"format {found['format']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"[:100]
    raise StorageError(wanted="a cell's result", got=got, where=path, do="remove it; its cell is run again")


def done(results: Path, cell: Cell) -> bool:
    """Whether the cell's result is there. Raises: StorageError: it is of other settings, which never mix."""
    path = path_of(results, cell)
    if not path.exists():
        return False
    if read(path)["identity"] == cell.identity():
        return True
    raise StorageError(
        wanted=f"a result of the suite's settings ({cell.identity()[:12]})",
        got="one of other settings",
        where=path,
        do="choose another --results, or remove the results of the former settings",
    )


def run(cell: Cell, *, results: Path, runs: Path, device: str) -> dict[str, Any]:
    """Train and measure a cell, and write its result; a training that diverges is a result as well.

    Args:
        runs: folder of checkpoints and logs, which the result no longer needs.

    Raises: EvaltkError: unusable settings or data. Interrupted: by a signal; the checkpoint is kept.
    """
    recipe, folder = cell.load(), runs / cell.suite / cell.name
    started, cpu = time.perf_counter(), time.process_time()
    found: dict[str, Any] = {
        "format": FORMAT,
        "identity": cell.identity(),
        "group": cell.group,
        "values": dict(cell.values),
        "seed": cell.seed,
        "diverged": None,
    }
    try:
        code = loop.run(recipe, out=folder, device=device)
        if code:
            raise Interrupted(code)
    except Diverged as error:
        found["diverged"] = error.got
    found["log"] = measures.of_log(list(log_lines(folder / LOG)))
    if found["diverged"] is None:
        found |= measures.of_run(cell, recipe, folder, device=device)
    found["made"] = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}
    seconds = {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    found["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    path = path_of(results, cell)
    files.make_folder(path.parent)
    files.write_text(path, json.dumps(found, indent=None, separators=(",", ":")) + "\n")
    shutil.rmtree(folder / "measured", ignore_errors=True)
    for checkpoint in folder.glob("checkpoint*.pth"):
        checkpoint.unlink()
    return found


class Interrupted(Exception):
    """A signal stopped the training. `code`: the exit code that says so."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def log_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a training log; truncated ones are left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            yield found


def trial(cell: Cell, found: dict[str, Any]) -> dict[str, Any]:
    """A line of the log of all trials."""
    told = {"suite": cell.suite, "cell": cell.name, "identity": found["identity"][:12]}
    return told | {"diverged": found["diverged"] is not None, "seconds": found["seconds"]}


def settings_of(cell: Cell) -> dict[str, Any]:
    """The whole recipe of a cell, for the page."""
    return dataclasses.asdict(cell.load())
