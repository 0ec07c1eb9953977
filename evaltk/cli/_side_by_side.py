"""Several trainings at once, a process each, and their progress read from their logs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaltk import safe_json

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from pretrain.recipe import Recipe

LOG = "log.jsonl"
LOOK = 0.5  # seconds between two looks at the logs
SAID_EVERY = 200  # steps between lines where stderr is no terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a training is. steps: in all. unique, largest: of num prototypes, as last counted, or None."""

    name: str
    step: int
    steps: int
    unique: int | None
    largest: int | None
    num: int
    seconds_left: float | None

    def words(self) -> str:
        """One line."""
        counted = ""
        if self.unique is not None and self.largest is not None:
            counted = f": {self.unique:,} of {self.num:,} prototypes unique, largest set {self.largest:,}"
        left = "" if self.seconds_left is None or self.step >= self.steps else f", {self.seconds_left:.0f} s left"
        return f"{self.name} step {self.step:,} of {self.steps:,}{counted}{left}"


def train(recipes: Mapping[Path, Recipe], *, steps: int, device: str) -> int:
    """Train each recipe into its folder, at the same time. Returns: 0, or the first exit code that is another.

    One that fails ends the others, whose checkpoints are kept. `steps`: of each training, for the progress lines.
    """
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, _cores() // max(1, len(recipes)))
    started = {
        folder: spawn.Process(target=_train, args=(recipe, folder, device, threads), name=recipe.name)
        for folder, recipe in recipes.items()
    }
    with _threads(threads), _ended(list(started.values())):
        for process in started.values():
            process.start()
        with _shown() as show:
            while any(process.is_alive() for process in started.values()):
                time.sleep(LOOK)
                if any(process.exitcode not in (None, 0) for process in started.values()):
                    break
                show([read(recipes[folder], folder, steps) for folder in started])
            else:
                show([read(recipes[folder], folder, steps) for folder in started])
    return next((code for process in started.values() if (code := process.exitcode or 0)), 0)


def read(recipe: Recipe, folder: Path, steps: int) -> Progress:
    """Where a training is, by its log; a line that is being written is left for the next look."""
    last: dict[str, Any] = {}
    counted: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        for text in (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                line = safe_json.parse(text)
                last = line if isinstance(line, dict) else last
                counted = last if "unique_prototypes" in last else counted
    return Progress(
        name=recipe.name,
        step=step if isinstance(step := last.get("step"), int) else 0,
        steps=steps,
        unique=counted.get("unique_prototypes"),
        largest=counted.get("largest_duplicate_set"),
        num=recipe.method.num_prototypes,
        seconds_left=last.get("seconds_left"),
    )


def _train(recipe: Recipe, folder: Path, device: str, threads: int) -> None:
    """In a process of its own, which ends with its parent. Its messages are errors alone."""
    from evaltk import processes, progress
    from evaltk.errors import EvaltkError

    processes.start_worker()
    progress.configure(quiet=True)
    import torch

    from pretrain import loop

    torch.set_num_threads(threads)
    try:
        code = loop.run(recipe, out=folder, device=device)
    except EvaltkError as error:
        print(f"evaltk: {error.brief()}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


def _cores() -> int:
    from evaltk.machine import usable_cores

    return usable_cores()


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Children have this number of threads, unless the user has set it."""
    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ.setdefault(name, str(number))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


@contextlib.contextmanager
def _ended(running: Sequence[BaseProcess]) -> Iterator[None]:
    """Whatever happens inside, no process is left: those still running are asked to save a checkpoint and end."""
    try:
        yield
    finally:
        alive = [process for process in running if process.pid is not None and process.is_alive()]
        for process in alive:
            process.terminate()
        for process in alive:
            process.join()


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[list[Progress]], None]]:
    """`show(progress of each)`: lines in place on a terminal, else a line of each every so many steps."""
    from evaltk.progress import log

    if sys.stderr.isatty() and log.isEnabledFor(20):
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(stderr=True), transient=False) as live:
            yield lambda states: live.update(Text("\n".join(state.words() for state in states)))
        return
    said: dict[str, int] = {}

    def show(states: list[Progress]) -> None:
        for state in states:
            part = state.step // SAID_EVERY if state.step < state.steps else -1
            if state.unique is not None and said.get(state.name) != part:
                said[state.name] = part
                log.info("%s", state.words())

    yield show
