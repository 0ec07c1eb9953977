"""Training runs in a terminal: the latest numbers of each, how they went, and what happened."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from evaltk import durations
from evaltk.errors import printable
from reports.training.logs import Line, RunLog

BARS = "▁▂▃▄▅▆▇█"
LENGTH = 16  # bars of a sparkline
SHOWN = 4  # alarms and incidents of a run

Form = Callable[[float, RunLog], str]


def _plain(form: str) -> Form:
    return lambda value, run: form.format(value)


def _of_ln_k(value: float, run: RunLog) -> str:
    log_k = run.latest("log_k")
    return f"{value:.3f}" + (f" of {log_k:.2f}" if log_k else "")


def _of_k(value: float, run: RunLog) -> str:
    return f"{value:,.0f}" + (f" of {run.prototypes:,}" if run.prototypes else "")


ROWS: tuple[tuple[str, str, Form], ...] = (
    ("loss", "loss", _plain("{:.4f}")),
    ("teacher entropy", "teacher_entropy", _of_ln_k),
    ("prototypes used", "used", _of_k),
    ("unique", "unique_prototypes", _of_k),
    ("largest duplicate set", "largest_duplicate_set", _plain("{:,.0f}")),
    ("median kappa", "kappa_median", _plain("{:.3g}")),
    ("k-NN", "knn", lambda value, run: f"{100 * value:.1f} %"),
    ("rank of features", "feature_rank", _plain("{:.1f}")),
    ("images/s", "images_per_second", _plain("{:,.0f}")),
)


def view(runs: Mapping[str, RunLog], states: Mapping[str, str], *, now: float | None = None) -> Group:
    """A column for each run, and what happened to it below. Args: states: ``running`` and the like, by run."""
    table = Table(title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("")
    for name, run in runs.items():
        table.add_column(Text(f"{printable(name)}\n{states[name]}{_age(run, now)}"), overflow="fold")
    table.add_row("step", *(_position(run) for run in runs.values()))
    table.add_row("epoch", *(_epoch(run) for run in runs.values()))
    table.add_row("time left", *(_left(run, states[name]) for name, run in runs.items()))
    for label, key, form in ROWS:
        series = [_series(run, key) for run in runs.values()]
        if any(len(values) for values in series):
            table.add_row(label, *(_cell(v, form, run) for v, run in zip(series, runs.values(), strict=True)))
    return Group(table, *_told(runs))


def text(runs: Mapping[str, RunLog], states: Mapping[str, str], *, width: int | None = None) -> str:
    """`view` as text, coloured where stdout is a terminal."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=sys.stdout.isatty())
    console.print(view(runs, states))
    return "\n".join(row.rstrip() for row in stream.getvalue().splitlines()) + "\n"


def _series(run: RunLog, key: str) -> np.ndarray:
    if key == "used":
        return np.array([value for line in run.lines if (value := run.used(line)) is not None])
    return run.curve(key)[1]


def _cell(values: np.ndarray, form: Form, run: RunLog) -> Text:
    if not len(values):
        return Text("-", style="dim")
    return Text.assemble(f"{form(float(values[-1]), run)}  ", (sparkline(values), "cyan"))


def sparkline(values: np.ndarray, length: int = LENGTH) -> str:
    """Values [N] as bars from the least to the most, averaged over stretches where there are more than `length`."""
    if len(values) < 2:
        return ""
    means = np.array([part.mean() for part in np.array_split(values, min(length, len(values)))])
    low, high = means.min(), means.max()
    heights = np.zeros(len(means)) if high == low else (means - low) / (high - low)
    return "".join(BARS[round(float(h) * (len(BARS) - 1))] for h in heights)


def columns() -> list[str]:
    """What `cells` are."""
    return ["step", "epoch", "time left", *(label for label, _, _ in ROWS)]


def cells(run: RunLog, state: str) -> list[str]:
    """The latest of each number of a run, in words; ``-`` where the log has none."""
    numbers = [(form, _series(run, key)) for _, key, form in ROWS]
    shown = [form(float(values[-1]), run) if len(values) else "-" for form, values in numbers]
    return [_position(run), _epoch(run), _left(run, state), *shown]


def _position(run: RunLog) -> str:
    total = run.latest("steps")
    return f"{run.step:,}" + (f" of {total:,.0f} ({100 * run.step / total:.0f} %)" if total else "")


def _epoch(run: RunLog) -> str:
    last: Line = run.lines[-1] if run.lines else {"epoch": 0}
    total, steps = run.latest("steps"), run.per_epoch
    return f"{last['epoch']}" + (f" of {total / steps:.0f}" if total and run.in_epochs and steps else "")


def _left(run: RunLog, state: str) -> str:
    seconds = run.latest("seconds_left")
    return durations.in_words(seconds) if seconds is not None and state.startswith("running") else "-"


def _age(run: RunLog, now: float | None) -> str:
    at = run.latest("time")
    return "" if at is None else f", {durations.in_words(max(0.0, (time.time() if now is None else now) - at))} ago"


def _told(runs: Mapping[str, RunLog]) -> Sequence[Any]:
    lines: list[Text] = []
    for name, run in runs.items():
        found = run.alarms()
        if not found:
            continue
        lines.append(Text(f"\n{printable(name)}", style="bold"))
        if len(found) > SHOWN:
            lines.append(Text(f"  {len(found) - SHOWN} earlier ones", style="dim"))
        lines += [Text(f"  {printable(one)}", style="yellow") for one in found[-SHOWN:]]
    return lines
