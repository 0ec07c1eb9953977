"""Training methods, one per file; a file with a METHOD in this folder is a method by its METHOD's name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from evaltk.errors import SettingsError, nearest
from pretrain.method import Method


def registry() -> dict[str, Method[Any]]:
    """All methods by name, sorted."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {module.METHOD.name: module.METHOD for module in sorted(modules, key=lambda m: m.METHOD.name)}


def get(name: str) -> Method[Any]:
    """The method of a name. Raises: SettingsError: no such method."""
    methods = registry()
    if name not in methods:
        raise SettingsError(wanted="a training method", got=repr(name), where="method.name", do=nearest(name, methods))
    return methods[name]
