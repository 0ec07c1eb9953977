"""Table layouts, one TOML file each: data that `reports.tables.build` reads. The folder is the registry.

Kinds: `protocol` (one row per checkpoint), `paper` (a paper's table, published numbers with ours beside them), and over
all protocols `summary` (the result view), `sweep`, `compare` and `published` (every number with a published match).
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from evaltk.errors import SettingsError, nearest

Unit = Literal["%", "count"]
FOLDER = Path(__file__).parent
KEYS = ("task", "dataset", "metric", "arch", "method", "variant")  # what finds a published number within its table


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A column beside the sweep: title, metric, the setting named in its cells, and its published twin.

    `at`: settings that the score must hold at, where one metric has several scores. `published` has task, metric,
    variant and, where it is not ImageNet, dataset: {our name, or ``*`` for all: the paper's}. Of unit ``count`` the
    value is shown as it is, else in percent; `digits` None: the table's. A `hidden` one is no column: it tells which
    score is the twin of a published number, for the paper's tables.
    """

    title: str
    metric: str
    show: str = ""
    footnote: str = ""
    published: dict[str, Any] = field(default_factory=dict)
    unit: Unit = "%"
    digits: int | None = None
    at: dict[str, Any] = field(default_factory=dict)
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Where the predictions file holds a metric's values, item by item, for intervals and paired tests.

    Attributes:
        metrics: the scores' metrics. values: name of an array [N], NaN where an item has no value; or
        predicted: name of an array of class ids [N], right where equal to `target`. Names may hold ``{metric}`` and
            settings of the score (``k{k}_t{temperature}``).
        at: settings that the score must hold at.
        same: arrays that must be equal in two results for their items to be the same.
        within: array [N] of what items were drawn by (a sequence has several objects): resampled as wholes.
    """

    metrics: tuple[str, ...]
    values: str = ""
    predicted: str = ""
    target: str = "target"
    same: tuple[str, ...] = ()
    within: str = ""
    at: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A candidate for a protocol's column in the result view: a metric, at certain settings.

    The first candidate that was measured is the column; later ones follow it where they are `beside`.
    `title`: what tells it from the protocol's other columns. `each`: a setting, each value of which has a column,
    titled by `values` {value: title} where it is listed there.
    """

    metric: str
    title: str = ""
    at: dict[str, Any] = field(default_factory=dict)
    beside: bool = False
    each: str = ""
    values: dict[str, str] = field(default_factory=dict)
    footnote: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How results of one protocol become a table: `metric` swept over the setting `sweep`, then the extra columns.

    Without a sweep there are the extra columns alone. `headline`: the metric whose course over a training is drawn
    (default: the first extra column's). `loose`: settings in which results of one table may differ, for the columns
    tell them; `harmless`: settings that change no number.

    In the result view: `label`, what the protocol is called; `task`, its columns; `lower`, metrics of which less is
    better; an `analysis` describes a net and is not ranked.
    """

    name: str
    title: str
    protocol: str
    metric: str = ""
    sweep: str = ""
    also: str = ""
    unit: Unit = "%"
    digits: int = 2
    headline: str = ""
    loose: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    extra: tuple[Extra, ...] = ()
    items: tuple[Items, ...] = ()
    label: str = ""
    task: tuple[Task, ...] = ()
    lower: tuple[str, ...] = ()
    analysis: bool = False

    def items_of(self, metric: str, at: Mapping[str, Any] | None = None) -> Items | None:
        """Where the values behind a score of a metric at these settings lie; None: they are not kept."""
        given = (at or {}).items()
        return next((one for one in self.items if metric in one.metrics and one.at.items() <= given), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row or a column of a paper's table: its label, what it measures (without method and net), what finds it."""

    label: str
    measure: str
    where: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A footnote of the cells that hold at `where`."""

    where: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A paper's table: `table` is its number in `reports/published`, rows and columns stand in the paper's order.

    A cell's number is found by what its row and its column say; `variant` puts a published variant together of both.
    `average`: label of the column that is the mean of all others of its row.
    """

    name: str
    title: str
    table: str
    stub: str = ""
    variant: str = ""
    average: str = ""
    rows: tuple[Line, ...] = ()
    columns: tuple[Line, ...] = ()
    footnotes: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = ()

    def where(self, row: Line, column: Line) -> dict[str, str]:
        """What finds the published number of a cell within the table."""
        found = {**row.where, **column.where}
        if self.variant:
            found["variant"] = self.variant.format(**found)
        return {key: value for key, value in found.items() if key in KEYS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A table over all protocols: `kind` names it, `protocols` gives the order."""

    name: str
    title: str
    kind: Literal["summary", "sweep", "compare", "trajectory", "published"]
    protocols: tuple[str, ...]
    footnotes: tuple[str, ...] = ()


AnyLayout = Layout | Paper | Over


def names() -> list[str]:
    """The layouts there are; those in a folder have its name before theirs (``paper/table4``), numbers in order."""

    def order(name: str) -> tuple[str, int, str]:
        digits = "".join(c for c in name if c.isdecimal())
        return name.rstrip("0123456789"), int(digits or 0), name

    return sorted((p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.toml")), key=order)


@functools.cache
def protocols() -> dict[str, Layout]:
    """{protocol: its own layout}, of those that have one."""
    found = (load(name) for name in names() if "/" not in name)
    return {layout.protocol: layout for layout in found if isinstance(layout, Layout)}


def load(name: str) -> AnyLayout:
    """A layout by name. Raises: SettingsError: no such layout, or a damaged file (it is named)."""
    if name not in names():
        raise SettingsError(wanted="a table layout", got=repr(name), where="--layout", do=nearest(name, names()))
    path = FOLDER / f"{name}.toml"
    try:
        return _layout(name, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(
            wanted="a table layout", got=str(error), where=path, do="compare it with the layouts beside it"
        ) from error


def _layout(name: str, found: dict[str, Any]) -> AnyLayout:
    kind = found.pop("kind", "protocol")
    if kind == "protocol":
        extra = tuple(Extra(**e) for e in found.pop("extra", []))
        items = tuple(_tuples(Items, **i) for i in found.pop("items", []))
        task = tuple(Task(**t) for t in found.pop("task", []))
        return _tuples(Layout, name=name, extra=extra, items=items, task=task, **found)
    if kind == "paper":
        rows, columns = (tuple(_line(**line) for line in found.pop(key)) for key in ("rows", "columns"))
        remarks = tuple(Remark(**remark) for remark in found.pop("remarks", []))
        return _tuples(Paper, name=name, rows=rows, columns=columns, remarks=remarks, **found)
    if kind in ("summary", "sweep", "compare", "trajectory", "published"):
        return _tuples(Over, name=name, kind=kind, **found)
    raise ValueError(f"kind {kind!r}; there are: compare, paper, protocol, published, summary, sweep, trajectory")


def _line(*, label: str, measure: str = "", **where: str) -> Line:
    return Line(label=label, measure=measure or label, where=where)


def _tuples(made: Any, **given: Any) -> Any:
    """`made(**given)`, where lists become tuples."""
    known = {f.name for f in fields(made)}
    if odd := given.keys() - known:
        raise ValueError(f"unknown {', '.join(sorted(odd))}; {nearest(sorted(odd)[0], known)}")
    return made(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
