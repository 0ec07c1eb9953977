"""Suite files: checkpoints, protocols, datasets and a matrix in TOML, next to the flags of `evaltk run`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaltk import arguments, safe_toml
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options
from evaltk.data.options import DataFlags
from evaltk.errors import EvaltkError, SettingsError, StorageError, nearest
from evaltk.running.cells import Rule

VERSION = 1  # of the format
OWN = ("version", "checkpoints", "protocols", "data", "matrix", "slurm")  # keys that are no flags
NOT_IN_FILE = ("json",)  # flags of a command, not of what is run


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A checkpoint, protocol or dataset of a suite. name: path or name. given: what the file says of it beside."""

    name: str
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteFile:
    """What a suite file says. flags: of `evaltk run`, by the names of its options. slurm: resources of its jobs."""

    path: Path
    checkpoints: tuple[Entry, ...]
    protocols: tuple[Entry, ...]
    data: tuple[Entry, ...]
    only: tuple[Rule, ...]
    without: tuple[Rule, ...]
    flags: Mapping[str, Any]
    slurm: Mapping[str, Any]

    def layers(self, settings: Mapping[str, type]) -> list[dict[str, Any]]:
        """{protocol: settings}, as many as needed for a protocol that is there with several.

        Args:
            settings: {protocol: class of its settings}.

        Raises: SettingsError: an unknown protocol or setting.
        """
        layers: list[dict[str, Any]] = []
        for entry in self.protocols:
            if entry.name not in settings:
                do = nearest(entry.name, settings)
                raise self.wrong("a protocol", repr(entry.name), "protocols", do)
            made = self.parsed(settings[entry.name], entry, "protocols")
            free = next((layer for layer in layers if entry.name not in layer), None)
            if free is None:
                layers.append({entry.name: made})
            else:
                free[entry.name] = made
        return layers

    def parsed(self, kind: type, entry: Entry, title: str, base: Any = None, before: Sequence[str] = ()) -> Any:
        """A dataclass of flags from what is said of an entry; the rest as in `base`.

        Args:
            before: words of the command line in front.

        Raises: SettingsError.
        """
        where = f"{title}, {entry.name}"
        self.check_keys(entry.given, [f.name for f in dataclasses.fields(kind)], where)
        try:
            line = [*before, *words(kind, entry.given)]
            return arguments.parse(kind, line, str(self.path), None, default=base)
        except SettingsError as error:
            got, do = error.got, f"see evaltk run --help{' --protocols ' + entry.name if title == 'protocols' else ''}"
            fits = (
                f"values that fit {entry.name}"
                if error.wanted == arguments.MISFIT
                else f"{error.wanted}, for {entry.name}"
            )
            raise self.wrong(fits, got, where, do) from error
        except TypeError as error:
            raise self.wrong("a value that a flag can have", str(error), where, "see evaltk run --help") from error

    def check_keys(self, given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
        """Raises: SettingsError: a key that is unknown."""
        for key in given:
            if key not in known:
                raise self.wrong("a known key", repr(key), where, nearest(key, known))

    def wrong(self, wanted: str, got: str, where: str, do: str) -> SettingsError:
        """An error in the file."""
        return SettingsError(wanted=wanted, got=got, where=f"{self.path}: {where}", do=do)


def is_suite(word: str) -> bool:
    """Whether a word among the checkpoints names a suite file."""
    return word.endswith(".toml") and ":" not in word.partition("/")[0]


def read(path: Path, flags: Sequence[str]) -> SuiteFile:
    """A suite file.

    Args:
        flags: options of `evaltk run` that it may set.

    Raises: StorageError: no such file. SettingsError: no TOML, an unknown key, a later version.
    """
    try:
        told = safe_toml.read(path)
    except FileNotFoundError as error:
        raise StorageError(wanted="a suite file", got="no such file", where=path, do="check the path") from error
    except UnicodeDecodeError as error:
        raise SettingsError(wanted="TOML in UTF-8", got=str(error), where=path, do="save it as UTF-8") from error
    except (OSError, ValueError) as error:
        got = str(error)[:120]
        raise SettingsError(wanted="a suite file in TOML", got=got, where=path, do="correct it") from error
    suite = SuiteFile(
        path=path, checkpoints=(), protocols=(), data=(), only=(), without=(), flags={}, slurm={}
    )  # for its errors
    version = told.pop("version", VERSION)
    if isinstance(version, bool) or not (isinstance(version, int) and 1 <= version <= VERSION):
        later = isinstance(version, int) and version > VERSION
        do = "install a newer evaltk" if later else f"version = {VERSION}"
        raise suite.wrong(f"version {VERSION} of the format", repr(version), "version", do)
    told = {key.replace("-", "_"): value for key, value in told.items()}
    known = [*OWN, *(name for name in flags if name not in NOT_IN_FILE)]
    suite.check_keys(told, known, "top level")
    matrix = _table(suite, told.pop("matrix", {}), "matrix")
    suite.check_keys(matrix, ["only", "except"], "matrix")
    return SuiteFile(
        path=path,
        checkpoints=_entries(suite, told.pop("checkpoints", []), "checkpoints", "path"),
        protocols=_entries(suite, told.pop("protocols", ["knn"]), "protocols", "name"),
        data=_entries(suite, told.pop("data", []), "data", "name"),
        only=_rules(suite, matrix.get("only", []), "matrix.only"),
        without=_rules(suite, matrix.get("except", []), "matrix.except"),
        slurm=_table(suite, told.pop("slurm", {}), "slurm"),
        flags=told,
    )


def words(kind: type, given: Mapping[str, Any]) -> list[str]:
    """Flags and values as a command line has them. Raises: TypeError: a value that no flag can have."""
    made = []
    switches = {f.name for f in dataclasses.fields(kind) if _options.is_switch(kind, f)}
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            made += [f"--{flag}" if value else f"--no-{flag}"] if name in switches else [f"--{flag}={value}"]
        elif isinstance(value, list):
            made += [f"--{flag}", *(_word(one, name) for one in value)]
        else:
            made.append(f"--{flag}={_word(value, name)}")
    return made


def _word(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or "\0" in str(value):
        raise TypeError(f"{name} = {value!r}")
    return repr(value) if isinstance(value, float) else str(value)


def _table(suite: SuiteFile, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise suite.wrong("a table", repr(value)[:60], where, f"[{where}]")
    return {key.replace("-", "_"): one for key, one in value.items()}


def _entries(suite: SuiteFile, value: object, where: str, key: str) -> tuple[Entry, ...]:
    """Words, or tables with a word under `key` and whatever else is said of it."""
    found = []
    for one in value if isinstance(value, list) else [value]:
        told = dict.fromkeys([key], one) if isinstance(one, str) else _table(suite, one, where)
        name = told.pop(key, None)
        if not (isinstance(name, str) and name):
            raise suite.wrong(f"{key} = a text in each entry", repr(one)[:60], where, f'[[{where}]] {key} = "..."')
        found.append(Entry(name=name, given=told))
    if not found:
        raise suite.wrong(f"at least one of {where}", "none", where, f'{where} = ["..."]')
    return tuple(found)


def _rules(suite: SuiteFile, value: object, where: str) -> tuple[Rule, ...]:
    found = []
    known = [f.name for f in dataclasses.fields(Rule)]
    for one in value if isinstance(value, list) else [value]:
        told = _table(suite, one, where)
        suite.check_keys(told, known, where)
        patterns = {}
        for name, some in told.items():
            patterns[name] = tuple(some) if isinstance(some, list) else (some,)
            if not patterns[name] or not all(isinstance(pattern, str) for pattern in patterns[name]):
                raise suite.wrong("a pattern or a list of them", repr(some)[:60], where, f'{name} = "dino*"')
        if not patterns:
            raise suite.wrong("checkpoint, protocol or data", "an empty rule", where, "leave the rule out")
        found.append(Rule(**patterns))
    return tuple(found)


def groups(entries: Sequence[Entry]) -> list[tuple[Mapping[str, Any], tuple[Entry, ...]]]:
    """Entries of which the same is said, together, in the order of their first."""
    found: list[tuple[Mapping[str, Any], list[Entry]]] = []
    for entry in entries:
        mine = next((some for given, some in found if given == entry.given), None)
        if mine is None:
            found.append((entry.given, [entry]))
        else:
            mine.append(entry)
    return [(given, tuple(some)) for given, some in found]


def read_options(suite: SuiteFile, entry: Entry, base: ReadOptions) -> ReadOptions:
    """What is said of a checkpoint's file. Raises: SettingsError."""
    made: ReadOptions = suite.parsed(ReadOptions, entry, "checkpoints", base)
    return made


def data_flags(suite: SuiteFile, entry: Entry, base: DataFlags) -> DataFlags:
    """What is said of a dataset of one's own. Raises: SettingsError: also where it is none of those."""
    from evaltk import datasets
    from evaltk.data.options import DataOptions

    made: DataFlags = suite.parsed(DataFlags, entry, "data", base)
    try:
        datasets.check_options([entry.name], DataOptions.of(suite.parsed(DataFlags, entry, "data"), 0))
    except EvaltkError as error:
        raise suite.wrong(error.wanted, error.got, f"data, {entry.name}", error.do) from error
    return made
