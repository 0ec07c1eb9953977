"""Data sets, one file each. The folder is the registry.

A data set module has `load(root) -> Dataset`, `WHERE` (the layout expected and where to get it) and `NEEDS_PATH`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from evaltk.errors import DataError, SettingsError, nearest


@functools.cache
def registry() -> dict[str, ModuleType]:
    """{name: module} of every data set in this folder."""
    found = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    return {name: module for name, module in found.items() if hasattr(module, "load")}


def parse(text: str) -> tuple[str, str, Path | None]:
    """``NAME``, ``NAME=PATH`` or ``LABEL:NAME=PATH`` as (label, name, path).

    Raises: SettingsError: an unknown name, or a path missing where one is needed.
    """
    left, _, path = text.partition("=")
    label, _, name = left.rpartition(":")
    if name not in registry():
        raise SettingsError(
            wanted="a data set",
            got=repr(name),
            where="--data",
            do=f"{nearest(name, registry())}; your own folder: --data LABEL:imagefolder=PATH",
        )
    if registry()[name].NEEDS_PATH and not path:
        raise SettingsError(
            wanted=f"where {name} lies",
            got="no path",
            where="--data",
            do=f"--data {left}=PATH; {registry()[name].WHERE}",
        )
    if path and not registry()[name].NEEDS_PATH:
        do = f"--data {left}, or for your own files --data LABEL:imagefolder={path}"
        raise SettingsError(wanted=f"no path for {name}", got=path, where="--data", do=do)
    if label != name and label in registry():  # tables put published numbers beside a data set's name
        do = f"--data my-{label}:{name}={path}"
        raise SettingsError(wanted="a label that is no data set's name", got=repr(label), where="--data", do=do)
    return label or name, name, Path(path).expanduser() if path else None


def load(text: str) -> Any:
    """The data set a ``--data`` word names. Raises: SettingsError, DataError: before any image is read."""
    label, name, path = parse(text)
    if path is not None and not path.is_dir():
        raise DataError(wanted=f"the folder of {name}", got="no such folder", where=path, do=registry()[name].WHERE)
    return registry()[name].load(path, label)
