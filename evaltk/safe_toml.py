"""Safe reading of TOML: bounded in size, depth and digits, with one kind of error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from evaltk import safe_json

BYTES = 16 << 20


def read(path: Path) -> dict[str, Any]:
    """The table of a TOML file.

    Raises: ValueError: no UTF-8, no TOML, nested too deep, above 16 MiB, a whole number above 64 bits. OSError.
    """
    return parse(safe_json.text(path, limit=BYTES).removeprefix("\ufeff"))


def parse(text: str) -> dict[str, Any]:
    """As `read`, of a text."""
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    left: list[Any] = [table]
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and abs(value) >= safe_json.LARGEST:
            raise ValueError("a whole number of more than 64 bits")
    return table
