"""Safe reading of TOML: bounded in size and depth, with one kind of error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from evaltk import safe_json

BYTES = 16 << 20


def read(path: Path) -> dict[str, Any]:
    """The table of a TOML file.

    Raises: ValueError: no UTF-8, no TOML, nested too deep, above 16 MiB. OSError.
    """
    return parse(safe_json.text(path, limit=BYTES).removeprefix("\ufeff"))


def parse(text: str) -> dict[str, Any]:
    """As `read`, of a text."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
