"""Checkpoint families, one file each. The folder is the registry.

A family module has `claims(raw) -> bool` and `convert(raw, options) -> Converted` for files, or `SCHEME` and
`from_name(rest, options) -> Converted` for checkpoints that are names (``timm:NAME``), or both.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def load() -> dict[str, ModuleType]:
    """{name: module} of every family in this folder."""
    return {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
