"""Safe reading of JSON: bounded in size, depth and digits, with one kind of error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BYTES = 256 << 20
LARGEST = 1 << 64  # whole numbers from here on fit no array, and from 2^1024 on no float


def read(path: Path, *, limit: int = BYTES) -> Any:
    """What a JSON file holds.

    Raises: ValueError: no UTF-8, no JSON, nested too deep, above `limit` bytes, a whole number above 64 bits. OSError.
    """
    return parse(text(path, limit=limit))


def text(path: Path, *, limit: int = BYTES) -> str:
    """The text of a file. Raises: ValueError: no UTF-8, above `limit` bytes. OSError."""
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    if (size := path.stat().st_size) > limit:
        raise ValueError(f"{size:,} bytes")
    return path.read_text(encoding="utf-8")


def parse(text: str | bytes) -> Any:
    """As `read`, of a text."""
    try:
        return json.loads(text, parse_int=whole)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def whole(text: str) -> int:
    """A whole number. Raises: ValueError: of more than 64 bits."""
    number = int(text)
    if abs(number) >= LARGEST:
        raise ValueError(f"a whole number of {len(text)} digits")
    return number
