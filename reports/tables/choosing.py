"""Which results and columns of the result view are shown, in which order, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from evaltk import safe_toml
from evaltk.errors import SettingsError, nearest
from evaltk.types import Result
from reports.table import Cell, Table
from reports.tables import facts, view

LOWER_FIRST = (view.RANK,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the user asked to see. Names may be patterns (``dino*``); () and "" stand for everything.

    Attributes:
        models, data, protocols: results to show.
        columns: titles of columns, whole or in part, in the order to show them.
        sort: a column's title, or ``model``. digits: decimals of percentages.
        rename: {a model's name: what to call it}.
    """

    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    sort: str = ""
    digits: int | None = None
    rename: Mapping[str, str] = field(default_factory=dict)

    def costs(self) -> bool:
        """Whether a column of costs is asked for, which is not shown otherwise."""
        asked = (*self.columns, self.sort)
        titles = (facts.GFLOPS.casefold(), facts.RATE)
        return any(
            name and any(name.casefold() in t or fnmatchcase(t, name.casefold()) for t in titles) for name in asked
        )

    def called(self, name: str) -> str:
        """What a model is called."""
        return self.rename.get(name, name)


def filtered(results: Sequence[Result], choice: Choice) -> list[Result]:
    """The results that were asked for. Raises: SettingsError: a name that fits none, or a model renamed that is not
    there."""
    parts: tuple[tuple[str, tuple[str, ...], Callable[[Result], str]], ...] = (
        ("--models", choice.models, lambda r: str(r.checkpoint.get("name"))),
        ("--data", choice.data, lambda r: r.data.name),
        ("--protocols", choice.protocols, lambda r: r.protocol),
    )
    kept = list(results)
    for flag, patterns, name in parts:
        known = list(dict.fromkeys(map(name, results)))
        for pattern in patterns:
            if not any(_fits(pattern, one) for one in known):
                raise SettingsError(
                    wanted=f"a name for {flag}", got=repr(pattern), where=flag, do=nearest(pattern, known)
                )
        kept = [r for r in kept if not patterns or any(_fits(pattern, name(r)) for pattern in patterns)]
    if not kept and results:
        do = "drop --models, --data or --protocols"
        raise SettingsError(
            wanted="results of all that is named", got=f"none among {len(results)}", where="evaltk table", do=do
        )
    return kept


def renames(pairs: Iterable[str], names: Path | None, known: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """({model: what to call it} of ``OLD=NEW`` and a file of names, names in that file that no model has).

    A file of names is TOML: ``"old name" = "new name"`` on each line.

    Raises: SettingsError: no ``=``, a model that is not among `known` (a file may name others), two models of one name,
        a file that is no TOML.
    """
    models = list(dict.fromkeys(known))
    found, unknown = ({}, []) if names is None else _of_file(names, models)
    for pair in pairs:
        old, equals, new = pair.partition("=")
        for end in range(len(old) + 1, len(pair)):  # a model's own name may hold `=`
            if old not in models and pair[end] == "=":
                old, new = pair[:end], pair[end + 1 :]
        if not equals or not new:
            do = f"--rename '{models[0] if models else 'old'}=DINO S/16'"
            raise SettingsError(wanted="OLD=NEW", got=repr(pair), where="--rename", do=do)
        if old not in models:
            raise SettingsError(wanted="a model", got=repr(old), where="--rename", do=nearest(old, models))
        found[old] = new
    shown = [found.get(model, model) for model in models]
    for name in shown:
        if shown.count(name) > 1:
            both = " and ".join(repr(m) for m in models if found.get(m, m) == name)
            raise SettingsError(wanted="a name for each model", got=f"{name!r} for {both}", where="--rename",
                                do="choose different names")  # fmt: skip
    return found, unknown


def _of_file(path: Path, models: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    do = 'write "old name" = "new name" on each line'
    try:
        named = safe_toml.read(path.expanduser())
    except OSError as error:
        got = error.strerror or str(error)
        raise SettingsError(wanted="a file of names", got=got, where=path, do=do) from error
    except ValueError as error:
        raise SettingsError(wanted="a TOML file of names", got=str(error), where=path, do=do) from error
    if odd := [key for key, value in named.items() if not isinstance(value, str) or not value.strip()]:
        raise SettingsError(wanted="a name", got=repr(named[odd[0]]), where=f"{odd[0]} in {path}", do=do)
    return {k: v for k, v in named.items() if k in models}, [k for k in named if k not in models]


def shown(table: Table, choice: Choice) -> Table:
    """The result view as asked for. Raises: SettingsError: a column that there is not."""
    titles = table.titles()
    columns = None
    if choice.columns:
        columns = list(dict.fromkeys(c for name in choice.columns for c in _columns(name, titles, "--columns")))
    sort = None
    if choice.sort:
        by_name = choice.sort in ("model", "name")
        sort = -1 if by_name else _columns(choice.sort, titles, "--sort")[0]
    lower = sort is not None and sort >= 0 and titles[sort] in LOWER_FIRST
    made = arrange(table, columns=columns, sort=sort, lower=lower, digits=choice.digits)
    return called(made, choice)


def called(table: Table, choice: Choice) -> Table:
    """The table with its models under the names they were given."""
    rows = tuple((_renamed(label, choice.rename), row) for label, row in table.rows)
    columns = (
        tuple(_renamed(title, choice.rename) for title in table.columns) if table.stub == "metric" else table.columns
    )
    return replace(table, rows=rows, columns=columns)


def arrange(
    table: Table, *, columns: Sequence[int] | None, sort: int | None, lower: bool, digits: int | None
) -> Table:  # fmt: skip
    """The table with chosen columns in that order, sorted by one (None: as it is), numbers in percent with `digits`.

    Args:
        sort: index of a column, -1: by model. lower: the smallest first. Rows without the value come last.
    """
    rows = list(table.rows)
    if sort == -1:
        rows.sort(key=lambda row: row[0].casefold())
    elif sort is not None:
        sign = 1.0 if lower else -1.0
        rows.sort(key=lambda row: (row[1][sort].value is None, sign * (row[1][sort].value or 0.0)))
    kept = list(range(len(table.columns))) if columns is None else list(columns)
    place = {c: i for i, c in enumerate(kept)}

    def cell(one: Cell) -> Cell:
        return replace(one, digits=digits) if digits is not None and one.unit == "%" else one

    return replace(
        table,
        columns=tuple(table.columns[c] for c in kept),
        groups=tuple(table.groups[c] for c in kept) if table.groups else (),
        rows=tuple((label, tuple(cell(row[c]) for c in kept)) for label, row in rows),
        minor=tuple(place[c] for c in table.minor if c in place),
    )


def _renamed(label: str, rename: Mapping[str, str]) -> str:
    """A label begins with the model's name; what tells two of one name apart stays behind it."""
    if label in rename:
        return rename[label]
    old = max((name for name in rename if label.startswith(f"{name} ")), key=len, default="")
    return rename[old] + label[len(old) :] if old else label


def _columns(name: str, titles: Sequence[str], flag: str) -> list[int]:
    """The columns with this title, else those that it fits as a pattern, else those that it is a part of."""
    folded = [title.casefold() for title in titles]
    wanted = name.casefold()
    for test in (lambda t: t == wanted, lambda t: fnmatchcase(t, wanted), lambda t: wanted in t):
        if found := [c for c, title in enumerate(folded) if test(title)]:
            return found
    raise SettingsError(wanted="a column", got=repr(name), where=flag, do=nearest(name, titles))


def _fits(pattern: str, name: str) -> bool:
    return pattern == name or fnmatchcase(name, pattern)
