"""ARCHITECTURE.md shows the house as it stands: every file is named there, and no file that is not."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_file_has_its_caption() -> None:
    told = set(
        re.findall(r"^- `([\w/]+\.py)`: \S", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    there = {
        str(path.relative_to(ROOT))
        for package in ("evaltk", "protocols", "pretrain", "reports")
        for path in (ROOT / package).rglob("*.py")
    }
    assert told == there
