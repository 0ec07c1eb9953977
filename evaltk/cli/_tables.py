"""Tables as commands print them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.table import Table


def footnotes_once(tables: Iterable[Table]) -> list[Table]:
    """The tables, each without the footnotes that stand under one before it."""
    shown: set[str] = set()
    fresh = []
    for table in tables:
        fresh.append(dataclasses.replace(table, footnotes=tuple(t for t in table.footnotes if t not in shown)))
        shown.update(table.footnotes)
    return fresh
