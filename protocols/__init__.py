"""Evaluation protocols, one file or package each. The folder is the registry.

Each defines `PROTOCOL`, an `evaltk.bench.Protocol`. Protocols are also found through the entry points
``evaltk.protocols`` of installed packages and in plug-in files. What is imported with a protocol (the file, or the
package's `__init__` and settings) must not import torch outside functions, so that help and finished runs are quick.
"""

from __future__ import annotations

from evaltk.bench import Protocol
from evaltk.plugins import Registry

REGISTRY = Registry(record=Protocol, constant="PROTOCOL", package=__name__)


def registry() -> dict[str, Protocol]:
    """{name: protocol}. Raises: SettingsError: a record that is missing or claims another's name."""
    return REGISTRY.records()
