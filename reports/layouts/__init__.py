"""Table layouts, one TOML file each. The folder is the registry."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evaltk.errors import SettingsError, nearest

Unit = Literal["%", "count"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A column beside the sweep: title, metric, the setting named in its cells, and its published twin.

    `published` has task, metric, variant and, where it is not ImageNet, dataset: {our name: the paper's}. Of unit
    ``count`` the value is shown as it is, else in percent; `digits` None: the table's.
    """

    title: str
    metric: str
    show: str = ""
    footnote: str = ""
    published: dict[str, Any] = field(default_factory=dict)
    unit: Unit = "%"
    digits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How results of one protocol become a table: `metric` swept over the setting `sweep`, then the extra columns.

    Without a sweep there are the extra columns alone.
    """

    name: str
    title: str
    protocol: str
    metric: str = ""
    sweep: str = ""
    also: str = ""
    unit: Unit = "%"
    digits: int = 2
    extra: tuple[Extra, ...] = ()


def names() -> list[str]:
    """The layouts there are; those in a folder have its name before theirs (``paper/table4``)."""
    here = Path(__file__).parent
    return sorted(p.relative_to(here).with_suffix("").as_posix() for p in here.rglob("*.toml"))


def load(name: str) -> Layout:
    """A layout by name. Raises: SettingsError: no such layout."""
    if name not in names():
        raise SettingsError(wanted="a table layout", got=repr(name), where="--layout", do=nearest(name, names()))
    found = tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))
    extra = tuple(Extra(**e) for e in found.pop("extra", []))
    return Layout(name=name, extra=extra, **found)
