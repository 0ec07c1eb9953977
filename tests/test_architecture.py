"""ARCHITECTURE.md has a line for every package of the floors, and for none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from test_floors import FLOOR

ROOT = Path(__file__).parents[1]


def test_every_package_has_its_line() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z.]+)` \|", text, re.MULTILINE)) == set(FLOOR)
