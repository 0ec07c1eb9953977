"""Registries: the records in a folder, those that installed packages offer as entry points, and those of plug-in files.

A record is a frozen dataclass, or another object that does not change, with a `name`. A file defines it as a constant:
`PROTOCOL`, `DATASET`, `FAMILY` or `METHOD`. A plug-in file is a Python file named with ``--plugin``; it may define one
record of each kind.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from evaltk import files
from evaltk.errors import SettingsError

CONSTANTS = ("PROTOCOL", "DATASET", "FAMILY", "METHOD")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plug-in file that was loaded; `folder`: what was appended to `sys.path` for it, if anything."""

    path: Path
    sha256: str
    module: ModuleType
    folder: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """A record with its owner, in words, and what identifies code that is not part of evaltk (empty for its own)."""

    record: T
    owner: str
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry(Generic[T]):
    """All records of one kind.

    Attributes:
        record: their type, whose instances have a `name`.
        constant: the name a file gives its record.
        package: the package whose folder holds evaltk's own; its last part names the group of entry points.
    """

    record: type[T]
    constant: str
    package: str

    @property
    def group(self) -> str:
        """The group of entry points."""
        return f"evaltk.{self.package.rpartition('.')[2]}"

    def entries(self) -> dict[str, Entry[T]]:
        """{name: entry}, evaltk's own first.

        Raises: SettingsError: a file or entry point without its record, or a name that two owners claim.
        """
        named: dict[str, Entry[T]] = {}
        for entry in (*_in_folder(self), *_installed(self, tuple(sys.path)), *self._in_plugins()):
            name = _name(entry.record)
            if name in named:
                raise SettingsError(
                    wanted=f"a name of its own for each {self.constant.lower()}",
                    got=f"{name!r} in both {named[name].owner} and {entry.owner}",
                    where=entry.owner,
                    do="rename the one you added",
                )
            named[name] = entry
        return named

    def records(self) -> dict[str, T]:
        """{name: record}. Raises: SettingsError: as `entries`."""
        return {name: entry.record for name, entry in self.entries().items()}

    def identity(self, name: str) -> dict[str, str]:
        """What identifies added code behind a record: {its constant: sha256 of the file, or package and version}."""
        entry = self.entries().get(name)
        return {self.constant.lower(): entry.identity} if entry and entry.identity else {}

    def _in_plugins(self) -> Iterator[Entry[T]]:
        for plugin in _plugins:
            if self.constant in vars(plugin.module):
                record = self.checked(vars(plugin.module)[self.constant], str(plugin.path))
                yield Entry(record=record, owner=str(plugin.path), identity=plugin.sha256)

    def checked(self, value: Any, where: str) -> T:
        """`value` as a record. Raises: SettingsError: it is none; fields that it lacks are named."""
        if isinstance(value, self.record):
            return value
        required = [
            f.name
            for f in (dataclasses.fields(self.record) if dataclasses.is_dataclass(self.record) else ())
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        missing = [name for name in required if name not in dir(value)]
        lacks = f", without {', '.join(missing)}" if missing else ""
        kind = f"{self.record.__module__}.{self.record.__qualname__}"
        raise SettingsError(
            wanted=f"{self.constant} = {self.record.__name__}(...)",
            got=f"type {type(value).__name__}{lacks}",
            where=where,
            do=f"make it an instance of {kind}",
        )


def _name(record: Any) -> str:
    return str(record.name)


@functools.cache
def _in_folder(registry: Registry[T]) -> tuple[Entry[T], ...]:
    package = importlib.import_module(registry.package)
    entries = []
    for item in pkgutil.iter_modules(package.__path__):
        if item.name.startswith("_"):
            continue
        module = importlib.import_module(f"{registry.package}.{item.name}")
        if registry.constant not in vars(module):
            raise SettingsError(
                wanted=f"{registry.constant} in every file of {registry.package}",
                got=f"none in {item.name}",
                where=module.__file__ or item.name,
                do="define the record there, or move the file to another package",
            )
        record = registry.checked(vars(module)[registry.constant], str(module.__file__))
        if _name(record) != item.name:
            raise SettingsError(
                wanted=f"a record named {item.name}, as its file",
                got=repr(_name(record)),
                where=str(module.__file__),
                do="rename the file or the record",
            )
        entries.append(Entry(record=record, owner=f"evaltk ({registry.package}.{item.name})"))
    return tuple(entries)


@functools.cache
def _installed(registry: Registry[T], path: tuple[str, ...]) -> tuple[Entry[T], ...]:
    """The records of installed packages; `path` is sys.path, on which they depend."""
    entries = []
    for point in metadata.entry_points(group=registry.group):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        where = f"the entry point {point.name} = {point.value} of {package}"
        try:
            value = point.load()
        except Exception as error:
            raise SettingsError(
                wanted=f"a {registry.constant.lower()} from {registry.group}",
                got=f"{type(error).__name__}: {error}",
                where=where,
                do=f"update or uninstall {package.partition(' ')[0]}",
            ) from error
        entries.append(Entry(record=registry.checked(value, where), owner=where, identity=package))
    return tuple(entries)


# The plug-in files in use in this process. The only state here: records are looked up where a name is used, deep
# inside loaders and protocols, and worker processes inherit it or import the files by name.
_plugins: list[Plugin] = []


def identity(constant: str) -> list[str]:
    """The sha256 of the plug-in files in use that define such a record."""
    return sorted(plugin.sha256 for plugin in _plugins if constant in vars(plugin.module))


def provenance() -> dict[str, dict[str, str]]:
    """What a result says of the plug-in files in use: {"plugins": {file name: sha256}}, empty without any."""
    return {"plugins": {plugin.path.name: plugin.sha256 for plugin in _plugins}} if _plugins else {}


def named_in(argv: Sequence[str]) -> list[Path]:
    """The files that ``--plugin`` names in a command line, which decide what other flags there are."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--plugin", action="append", default=[], nargs="?")
    return [Path(name).expanduser() for name in parser.parse_known_args(list(argv))[0].plugin if name]


def use(paths: Sequence[Path]) -> tuple[Plugin, ...]:
    """Load plug-in files and add their records to the registries, in place of those of an earlier call.

    A file is imported as the module of its name, and its folder is appended to `sys.path`, so that spawned workers,
    which get that path, can unpickle what it defines.

    Raises: SettingsError: no such file, a name another module has, an error while it is imported, or no record.
    """
    for plugin in _plugins:
        sys.modules.pop(plugin.module.__name__, None)
        if plugin.folder in sys.path:
            sys.path.remove(plugin.folder)
    _plugins.clear()
    for path in dict.fromkeys(path.resolve() for path in paths):
        _plugins.append(_load(path))
    return tuple(_plugins)


def _load(path: Path) -> Plugin:
    name = path.stem
    if path.suffix != ".py" or not path.is_file() or not name.isidentifier():
        got = f"{path.name!r}" if path.exists() else "no such file"
        raise SettingsError(
            wanted="a Python file, NAME.py", got=got, where=f"--plugin {path}", do="check the path and the name"
        )
    other = None if name in sys.modules else importlib.util.find_spec(name)
    if name in sys.modules or (other is not None and other.origin != str(path)):
        raise SettingsError(
            wanted="a file name that no other module has",
            got=name,
            where=f"--plugin {path}",
            do=f"rename it, for example my_{name}.py",
        )
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # of every file that ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent) if str(path.parent) not in sys.path else None
    sys.path += [folder] if folder else []
    try:
        spec.loader.exec_module(module)
        if not any(constant in vars(module) for constant in CONSTANTS):
            raise SettingsError(
                wanted=f"one of {', '.join(CONSTANTS)}",
                got="none of them",
                where=f"--plugin {path}",
                do="define a record, see docs/extending.md",
            )
    except BaseException as error:
        sys.modules.pop(name, None)
        if folder in sys.path:
            sys.path.remove(folder)
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SettingsError) and "--plugin" in error.where):
            raise
        raise SettingsError(
            wanted="a plug-in that can be imported",
            got=f"{type(error).__name__}: {error}",
            where=f"{path}, line {_line(error, path)}",
            do=f"fix that line; `python {path}` shows the whole traceback",
        ) from error
    return Plugin(path=path, sha256=files.sha256(path), module=module, folder=folder)


def _line(error: BaseException, path: Path) -> int:
    """The last line of the file on the way to the error."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return (lines[-1] if lines else None) or 1
