"""Table layouts, one TOML file each. The folder is the registry."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from evaltk.errors import SettingsError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A column beside the sweep: title, metric, the setting named in its cells, and its published twin."""

    title: str
    metric: str
    show: str = ""
    footnote: str = ""
    published: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How results of one protocol become a table: `metric` swept over the setting `sweep`, then the extra columns."""

    name: str
    title: str
    protocol: str
    metric: str
    sweep: str
    also: str = ""
    digits: int = 2
    extra: tuple[Extra, ...] = ()


def names() -> list[str]:
    """The layouts there are."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.toml"))


def load(name: str) -> Layout:
    """A layout by name. Raises: SettingsError: no such layout."""
    if name not in names():
        raise SettingsError(wanted="a table layout", got=repr(name), where="--layout", do=nearest(name, names()))
    found = tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))
    extra = tuple(Extra(**e) for e in found.pop("extra", []))
    return Layout(name=name, extra=extra, **found)
