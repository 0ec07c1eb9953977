"""Verdicts on our numbers against published ones: reproduced, off by how much, or not comparable and why.

Tolerances and what must hold are data, `acceptance.toml`. Whether two numbers may be compared is read from the kinds of
a result's deviations, its typed fields, settings and counts, never from a name or from the wording of a text.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaltk.deviations import NOT_COMPARABLE as NEVER_COMPARED
from evaltk.types import OriginProof, Preprocessing, Result, Score
from reports.published.load import Published
from reports.published.match import FAMILY_GIVEN, Measured
from reports.table import Cell, in_unit

RULES = Path(__file__).with_name("acceptance.toml")
REPRODUCED, OFF, NOT_COMPARABLE = "reproduced", "off", "not comparable"
UNKNOWN = "not recorded"
NO_POSITIONS = "-"  # in the column `position`: the net has none to resize
NOT_VERIFIED = "published figure not verified at its source"


@functools.cache
def rules() -> dict[str, Any]:
    """`acceptance.toml`."""
    return tomllib.loads(RULES.read_text(encoding="utf-8"))


def beside(cell: Cell, row: Published, measured: Measured) -> Cell:
    """The cell of a score with its published match and the verdict on it."""
    known = replace(cell, published=row.value, published_spread=row.std, published_digits=row.digits)
    given = FAMILY_GIVEN if measured.result.origin_proof is OriginProof.USER else ""
    unread = "" if row.verified else NOT_VERIFIED
    known = replace(known, remark="; ".join(dict.fromkeys(filter(None, (cell.remark, given, unread)))))
    apart = dict.fromkeys(differences(measured.result, measured.score, row))
    if apart:  # the phrases may be empty, that there are some decides
        return replace(known, verdict=NOT_COMPARABLE, why="; ".join(apart))
    verdict, why = judge(known, row)
    return replace(known, verdict=verdict, why=why)


def judge(cell: Cell, row: Published) -> tuple[str, str]:
    """(verdict, why) on a value that may be compared: by the task's tolerance and by our own interval.

    Raises: ValueError: a cell without value or published number.
    """
    if cell.value is None or cell.published is None:
        raise ValueError("a verdict needs both numbers")
    tolerance, off = _tolerance(row), in_unit(cell.value, row.unit) - cell.published
    by = f"{off:+.{row.digits}f}" if row.unit == "count" else f"{off:+.2f}"
    tests = {}
    if tolerance is not None:
        tests[f"tolerance {tolerance:g}" if tolerance else "exact"] = abs(off) <= tolerance + 1e-9
    if cell.interval is not None:
        low, high = (in_unit(end, row.unit) for end in cell.interval)
        tests["interval"] = low <= cell.published <= high
    held = [name for name, holds in tests.items() if holds]
    if held and (rules()["accept"] == "either" or len(held) == len(tests)):
        return REPRODUCED, f"{by}; {' and '.join(held)}" + (" only" if len(held) < len(tests) else "")
    return OFF, by


def differences(result: Result, score: Score, row: Published) -> Iterator[str]:
    """What makes the two numbers incomparable, one phrase each: ours first, then what the published one had."""
    task = {**rules()["every"], **rules()["tasks"].get(row.task, {})}
    settings, forbidden = result.settings, task.get("forbidden", {})
    if row.apart:
        yield f"published by {row.apart}"
    for deviation in result.deviations:
        if deviation.kind in NEVER_COMPARED:
            yield deviation.text
        elif deviation.kind in forbidden:
            yield forbidden[deviation.kind]
    looks = result.preprocessing
    rules_of_run = {"precision": task["precision"], "position": row.position or task["position"]}
    for name, used in (("precision", looks.precision), ("position", looks.position)):
        if used != (wanted := rules_of_run[name]) and wanted != NO_POSITIONS:
            yield _apart(name, UNKNOWN if used is None else used, wanted)
    if "n" in task and score.n != task["n"]:
        yield f"n = {score.n:,} for {task['n']:,}"
    yield from _preprocessing(looks, task.get("views", {}))
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


def _preprocessing(looks: Preprocessing, wanted: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """By the views' own fields where the task says what they must be, else by what the user set."""
    if not wanted:
        for name, value in looks.overrides.items():
            yield f"{name} {value} set"
    for name, fields in wanted.items():
        view = looks.views.get(name)
        if view is None or view.crop is None:
            yield f"preprocessing {UNKNOWN}"
            continue
        if (view.resize, view.interpolation) != (fields["resize"], fields["interpolation"]):
            ours, theirs = f"{view.resize} {view.interpolation}", f"{fields['resize']} {fields['interpolation']}"
            yield f"resize {ours} (Pillow) for resize {theirs} (Pillow)"
        if view.crop != fields["crop"]:
            yield f"centre crop {view.crop} for centre crop {fields['crop']}"


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
