"""Training methods, one per file. The folder is the registry.

Each file defines `METHOD`, a `pretrain.method.Method` with the file's name. Methods are also found through the entry
points ``evaltk.methods`` of installed packages and in plug-in files.
"""

from __future__ import annotations

from typing import Any

from evaltk.errors import SettingsError, nearest
from evaltk.plugins import Registry
from pretrain.method import Method

REGISTRY: Registry[Method[Any]] = Registry(
    record=Method,  # type: ignore[type-abstract]  # mypy asks for a concrete class, but it is never instantiated
    constant="METHOD",
    package=__name__,
)


def registry() -> dict[str, Method[Any]]:
    """{name: method}, sorted. Raises: SettingsError: a method that is missing or claims another's name."""
    return dict(sorted(REGISTRY.records().items()))


def get(name: str) -> Method[Any]:
    """The method of a name. Raises: SettingsError: no such method."""
    methods = registry()
    if name not in methods:
        raise SettingsError(wanted="a training method", got=repr(name), where="method.name", do=nearest(name, methods))
    return methods[name]
