"""Provenance of each result: checkpoint, settings, data, versions and file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaltk.types import Result, canonical
from reports import comparable
from reports.comparable import as_mapping
from reports.tables.beside_published import checkpoint_names

Lines = tuple[tuple[str, str], ...]  # (name, what it is)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One result: a title, its own notes, and lines of (name, value) on how it was measured and by what."""

    title: str
    scores: int
    notes: tuple[str, ...]
    settings: Lines
    around: Lines
    made: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A checkpoint with its results."""

    name: str
    checkpoint: Lines
    results: tuple[Made, ...]


def provenance(found: Sequence[tuple[Path, Result]], runs: Path) -> list[Origin]:
    """Every checkpoint in order of first result, with all of its results; files are named from `runs` on."""
    called = checkpoint_names([result for _, result in found])
    mine: dict[tuple[str, str], list[tuple[Path, Result]]] = {}
    for path, result in found:
        mine.setdefault(comparable.identity(result), []).append((path, result))
    return [
        Origin(
            name=called[who],
            checkpoint=tuple(_flat({**members[0][1].checkpoint, "origin proof": members[0][1].origin_proof})),
            results=tuple(_made(path, result, runs) for path, result in members),
        )
        for who, members in mine.items()
    ]


def _made(path: Path, result: Result, runs: Path) -> Made:
    looks = asdict(result.preprocessing)
    views = {name: view.text for name, view in result.preprocessing.views.items()}
    around = {"dataset": asdict(result.data), "preprocessing": looks | {"views": views}}
    told = {"protocol": f"{result.protocol}, version {result.version}", "seed": result.seed, "request": result.request}
    where = path.relative_to(runs) if path.is_relative_to(runs) else path
    return Made(
        title=f"{result.protocol} on {result.data.name}",
        scores=len(result.scores),
        notes=(*(deviation.words() for deviation in result.deviations), *result.notes),
        settings=tuple(_flat(result.settings)),
        around=tuple(_flat(around)),
        made=tuple(_flat(told | dict(result.made) | {"file": str(where)})),
    )


def _flat(found: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Lines of a mapping; those of mappings within it are named ``dataset.name``."""
    for key, value in found.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(as_mapping(value), f"{before}{key}.")
        else:
            yield f"{before}{key}", _text(value)


def _text(value: object) -> str:
    if value is None or value in ({}, [], ()):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return canonical(value) if isinstance(value, Mapping) else str(value)
