"""Which results are comparable, and how to label differences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaltk.types import DeviationKind, Result, Score, canonical
from reports.layouts import Layout

SOURCE = "source"  # the only condition of figures that others published
# The checkpoints that one training leaves, called after its folder.
OF_RUN = re.compile(r"(?P<run>.+)/checkpoint(-epoch\d+|\.before)?")


def as_mapping(value: object) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one: result files are read from disk."""
    return value if isinstance(value, Mapping) else {}


def as_sequence(value: object) -> Iterable[object]:
    """`value` where it is a list or tuple, else nothing."""
    return value if isinstance(value, list | tuple) else ()


def conditions(result: Result, layout: Layout) -> dict[str, object]:
    """What must be equal in all results of one column, by the name a difference is labelled with.

    All of a protocol's settings count, except those the layout calls loose (shown by columns) or harmless.
    """
    if any(deviation.kind is DeviationKind.THEIRS for deviation in result.deviations):
        return {"dataset": result.data.name, SOURCE: result.made.get("source")}
    looks = result.preprocessing
    smoke = any(deviation.kind is DeviationKind.SMOKE_TEST for deviation in result.deviations)
    apart = {*layout.loose, *layout.harmless, layout.sweep, layout.also}
    found: dict[str, object] = {
        "dataset": result.data.name,
        "fingerprint": result.data.fingerprint[:12],
        "protocol version": result.version,
        "precision": looks.precision,
        "position rule": looks.position,
        "seed": result.seed,
        # Nets differ in image size and pixel statistics by design; user overrides make it another measurement.
        "preprocessing": ", ".join(f"{k} {v}" for k, v in sorted(looks.overrides.items())) or "default",
        "smoke test": "yes" if smoke else "no",
    }
    own = {name: value for name, value in sorted(result.settings.items()) if name not in apart}
    return found | {f"{result.protocol}.{name}" if name in found else name: value for name, value in own.items()}


def groups(results: Iterable[Result], layout: Layout) -> list[list[Result]]:
    """The layout's results, grouped by comparability, in their order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        if result.protocol == layout.protocol:
            found.setdefault(canonical(conditions(result, layout)), []).append(result)
    return list(found.values())


def describe_difference(mine: Mapping[str, object], others: Iterable[Mapping[str, object]]) -> str:
    """What distinguishes `mine` from the others, ``""`` if nothing does."""
    known = list(others)
    keys = dict.fromkeys([*mine, *(key for other in known for key in other)])
    apart = [key for key in keys if any(other.get(key) != mine.get(key) for other in known)]
    return ", ".join(f"{key} {mine.get(key, 'not recorded')}" for key in apart)


def labels(results: Sequence[Result]) -> list[str]:
    """The checkpoints' names; duplicates get the branch, the pixel statistics or the request's digest appended."""
    names = [str(r.checkpoint.get("name")) for r in results]
    with_branch = [f"{name} {r.checkpoint.get('branch')}" for name, r in zip(names, results, strict=True)]
    with_pixels = [f"{name} ({pixels(r)})" for name, r in zip(names, results, strict=True)]
    found = []
    for number, (name, result) in enumerate(zip(names, results, strict=True)):
        forms = [names, with_branch, *([with_pixels] if pixels(result) else [])]
        alone = (of[number] for of in forms if of.count(of[number]) == 1)
        found.append(next(alone, f"{name} ({result.request[:6]})"))
    return found


def pixels(result: Result) -> str:
    """The pixel statistics of a result's net in words, which the user may have given: ``mean 0.5 0.5 0.5, std ..``."""
    given = [(key, as_sequence(result.checkpoint.get(key))) for key in ("mean", "std")]
    return ", ".join(f"{key} {' '.join(map(str, values))}" for key, values in given if values)


def identity(result: Result) -> tuple[str, str]:
    """Identity of the checkpoint: its name, and the digest of its weights with its pixel statistics."""
    net = str(result.checkpoint.get("digest", result.checkpoint.get("branch")))
    return str(result.checkpoint.get("name")), f"{net} {pixels(result)}".rstrip()


def notes(said_by: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Deviations and notes of the results; those not shared by all are prefixed with checkpoint names."""
    said: dict[str, list[str]] = {}
    for label, result in zip(said_by, results, strict=True):
        for note in dict.fromkeys((*(d.words() for d in result.deviations), *result.notes)):
            said.setdefault(note, []).append(label)
    return [note if len(who) == len(results) else f"{', '.join(who)}: {note}" for note, who in said.items()]


def scores(result: Result, metric: str, at: Mapping[str, Any] | None = None) -> list[Score]:
    """The result's scores of a metric that hold at the settings `at`."""
    wanted = (at or {}).items()
    return [s for s in result.scores if s.metric == metric and all(s.at.get(key) == value for key, value in wanted)]


def plain(value: object) -> object:
    """A setting as something that can be looked up: result files are read from disk, and may hold lists."""
    return value if isinstance(value, str | int | float | None) else canonical(value)


def sweep_columns(layout: Layout, results: Sequence[Result]) -> list[dict[str, Any]]:
    """The settings at which a layout's metric was measured, in order: one dictionary per column."""
    if not layout.sweep:
        return []
    keys = (layout.also, layout.sweep) if layout.also else (layout.sweep,)
    found = {tuple(plain(s.at.get(key)) for key in keys) for r in results for s in scores(r, layout.metric)}
    return [dict(zip(keys, values, strict=True)) for values in sorted(found, key=lambda v: tuple(map(order, v)))]


def sweep_titles(layout: Layout, sweep: Sequence[Mapping[str, Any]]) -> list[str]:
    """Their titles; the second setting is named where it has more than one value."""
    alone = len({at.get(layout.also) for at in sweep}) <= 1
    return [
        f"{layout.sweep}={at[layout.sweep]}" + ("" if alone else f", {layout.also} {at[layout.also]}") for at in sweep
    ]


def order(value: object) -> tuple[int, float, str]:
    """Sorts settings: numbers by size, then words."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
