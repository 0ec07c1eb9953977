"""Watch training runs: latest numbers, curves and alarms.

Examples:
    evaltk watch runs/vmf_s16
    evaltk watch runs/vmf_s16 runs/dino_s16 --every 30
    evaltk watch runs/vmf_s16 --html vmf_s16.html --once
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from evaltk.cli import _options
from evaltk.errors import SettingsError, StorageError

if TYPE_CHECKING:
    from reports.training.logs import RunLog

QUIET = 900.0  # seconds without a line after which a run whose process cannot be asked counts as stopped
OWNER = re.compile(r"process (\d{1,18}) on (\S+)")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Watch training runs.

    Attributes:
        runs: folders that evaltk pretrain --out wrote, or folders of such.
        every: seconds between updates.
        once: print once and exit, as it also does if stdout is not a terminal or no run is under way.
        html: also write a page with the curves to this file, at every update.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = field(default=(), metadata={"metavar": "RUN ..."})
    every: float = 5.0
    once: bool = False
    html: Path | None = None


def main(argv: list[str]) -> int:
    """Show the runs until none is under way. Raises: StorageError: no log. SettingsError."""
    options = _options.parse(Options, argv, "watch", __doc__)
    if not options.every >= 0.2:
        do = "--every 5"
        raise SettingsError(wanted="at least 0.2 seconds", got=f"{options.every:g}", where="--every", do=do)
    if not options.runs:
        do = "evaltk watch runs/NAME"
        raise SettingsError(wanted="runs to watch", got="none", where="evaltk watch", do=do)
    import sys

    from reports.training import terminal

    runs, states = _look(options)
    if options.once or not sys.stdout.isatty() or not _any_running(states):
        print(terminal.text(runs, states), end="")
        if options.html is not None:
            print(options.html)
        return 0
    from rich.live import Live

    with Live(terminal.view(runs, states), auto_refresh=False) as shown:
        try:
            while _any_running(states):
                time.sleep(options.every)
                runs, states = _look(options)
                shown.update(terminal.view(runs, states), refresh=True)
        except KeyboardInterrupt:  # the usual way to leave
            pass
    return 0


def _look(options: Options) -> tuple[dict[str, RunLog], dict[str, str]]:
    """(runs by name, state of each); writes the page, if asked for."""
    runs = _read(options.runs)
    states = {name: state(run) for name, run in runs.items()}
    if options.html is not None:
        from evaltk import files
        from reports.training import page

        files.write_text(options.html, page.build_page(runs, states, told=time.strftime("%Y-%m-%d %H:%M:%S")))
    return runs, states


def _read(paths: Sequence[Path]) -> dict[str, RunLog]:
    """The runs that the paths name, by the shortest names that tell them apart."""
    from reports.figures.training_log import LOG
    from reports.training import logs

    found: dict[str, RunLog] = {}
    for path in paths:
        beyond = path.is_dir() and not (path / LOG).exists()
        for run in logs.under(path).values() if beyond else ():
            found[str(run.folder)] = run
        if not beyond or not any(run.folder.is_relative_to(path.absolute()) for run in found.values()):
            run = logs.read(path)
            do = "name the --out folder of a pretraining"
            if path.is_file() and not (run.lines or run.incidents):
                raise StorageError(wanted=f"a {LOG}", got="a file without a line of one", where=path, do=do)
            found[str(run.folder)] = run
    names = [run.name for run in found.values()]
    return {run.name if names.count(run.name) == 1 else place: run for place, run in found.items()}


def _any_running(states: Mapping[str, str]) -> bool:
    return any(state.startswith("running") for state in states.values())


def state(run: RunLog, now: float | None = None) -> str:
    """``running``, ``finished``, ``stopped``, ``diverged`` or ``collapsed``.

    A training holds its folder's lock, which names its process; of another machine's only the log tells.
    """
    from evaltk import owned

    if run.finished:
        return "finished"
    try:
        owner = (run.folder / owned.LOCK).read_text(encoding="utf-8", errors="replace")
    except OSError:
        owner = ""
    told = OWNER.search(owner)
    age = (time.time() if now is None else now) - (run.latest("time") or 0.0)
    if told is not None and (_alive(int(told[1])) if told[2] == platform.node() else age < QUIET):
        return "running"
    ended = run.ended_by
    return "stopped" if ended is None else str(ended.get("event"))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True
