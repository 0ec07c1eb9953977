"""What a number of ours says about a published one: reproduced, off by so much, or not comparable and why.

Tolerances and what must hold are data, `acceptance.toml`. Whether two numbers may be compared is read from the
result's settings, notes and counts, never from a name.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaltk.types import Result, Score
from reports.comparable import mapping, sequence
from reports.published.load import Published
from reports.published.match import Measured
from reports.table import Cell

RULES = Path(__file__).with_name("acceptance.toml")
SUBSET = ": not comparable with published figures"  # how a data set ends the note that it is not the whole
REPRODUCED, OFF, NOT_COMPARABLE = "reproduced", "off", "not comparable"
UNKNOWN = "not recorded"


@functools.cache
def rules() -> dict[str, Any]:
    """`acceptance.toml`."""
    return tomllib.loads(RULES.read_text(encoding="utf-8"))


def beside(cell: Cell, row: Published, measured: Measured) -> Cell:
    """The cell of a score with its published twin and the verdict on it."""
    known = replace(cell, published=row.value, published_spread=row.std, published_digits=row.digits)
    apart = "; ".join(dict.fromkeys(differences(measured.result, measured.score, row)))
    if apart:
        return replace(known, verdict=NOT_COMPARABLE, why=apart)
    verdict, why = judge(known, row)
    return replace(known, verdict=verdict, why=why)


def judge(cell: Cell, row: Published) -> tuple[str, str]:
    """(verdict, why) on a value that may be compared: by the task's tolerance and by our own interval.

    Raises: ValueError: a cell without value or published number.
    """
    if cell.value is None or cell.published is None:
        raise ValueError("a verdict needs both numbers")
    tolerance, off = _tolerance(row), cell.value - cell.published
    by = f"{off:+.{row.digits}f}" if row.unit == "count" else f"{off:+.2f}"
    tests = {}
    if tolerance is not None:
        tests[f"tolerance {tolerance:g}" if tolerance else "exact"] = abs(off) <= tolerance + 1e-9
    if cell.interval is not None:
        tests["interval"] = cell.interval[0] <= cell.published <= cell.interval[1]
    held = [name for name, holds in tests.items() if holds]
    if held and (rules()["accept"] == "either" or len(held) == len(tests)):
        return REPRODUCED, f"{by}; {' and '.join(held)}" + (" only" if len(held) < len(tests) else "")
    return OFF, by


def differences(result: Result, score: Score, row: Published) -> Iterator[str]:
    """What makes the two numbers incomparable, one phrase each: ours first, then what the published one had."""
    task = {**rules()["every"], **rules()["tasks"].get(row.task, {})}
    settings = result.settings
    for note in map(str, sequence(settings.get("notes"))):
        if note.endswith(SUBSET):
            yield note.removesuffix(SUBSET)
        for start, meaning in task.get("forbidden", []):
            if note.startswith(start):
                yield meaning
    for name in ("precision", "position"):
        if (got := settings.get(name, UNKNOWN)) != task[name]:
            yield _apart(name, got, task[name])
    if "n" in task and score.n != task["n"]:
        yield f"n = {score.n:,} for {task['n']:,}"
    yield from _preprocessing(settings, task.get("transforms", {}))
    for name, wanted in task.get("settings", {}).items():
        if (got := settings.get(name, UNKNOWN)) != wanted:
            yield _apart(name, got, wanted)
    for name, spelled_out in task.get("unset", {}).items():
        if settings.get(name) not in (None, *spelled_out):
            yield _apart(name, settings[name], "the default")
    for name, wanted in task.get("contains", {}).items():
        tried = settings.get(name)
        if not isinstance(tried, list | tuple):
            yield f"{name} {UNKNOWN}"
        elif missing := [value for value in wanted if value not in tried]:
            yield f"{name} = {', '.join(map(str, tried))} without {', '.join(map(str, missing))}"
    for name, wanted in {**task.get("at", {}), **task.get("at_data", {}).get(row.dataset, {})}.items():
        if (got := score.at.get(name, UNKNOWN)) != wanted:
            yield _apart(name, got, wanted)
    yield from _training(result, row)


def _preprocessing(settings: Mapping[str, Any], wanted: Mapping[str, list[str]]) -> Iterator[str]:
    """By the preprocessing's own text where the task says what it must be, else by what the user set."""
    if not wanted:
        for name, value in mapping(settings.get("images")).items():
            yield f"{name} {value} set"
    for view, parts in wanted.items():
        text = str(mapping(settings.get("transforms")).get(view, ""))
        if not text:
            yield f"preprocessing {UNKNOWN}"
        for got, part in zip(text.split(", ") if text else (), parts, strict=False):
            if got != part:
                yield f"{got} for {part}"


def _training(result: Result, row: Published) -> Iterator[str]:
    """By the epochs that the checkpoint states; a table of weights of its own asks for them."""
    epoch = result.checkpoint.get("epoch")
    own = [entry for entry in rules()["trained"] if entry.get("table") == row.table]
    usual = [e for e in rules()["trained"] if (e.get("method"), e.get("arch")) == (row.method, row.arch)]
    for entry in own or usual:
        if epoch is None and own:
            yield f"epochs {UNKNOWN}"
        elif epoch not in (None, entry["epochs"]):
            yield f"{epoch} epochs for {entry['epochs']}"


def _tolerance(row: Published) -> float | None:
    task = rules()["tasks"].get(row.task, {})
    special = task.get("tolerances", {})
    return special.get(row.variant, special.get(row.dataset, task.get("tolerance")))


def _apart(name: str, got: object, wanted: object) -> str:
    words = {True: "on", False: "off"}
    got, wanted = (words[v] if isinstance(v, bool) else v for v in (got, wanted))
    return f"{name} {got} for {wanted}" if got != UNKNOWN else f"{name} {UNKNOWN}"
