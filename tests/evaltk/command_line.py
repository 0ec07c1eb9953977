"""Commands of evaltk in this process, and what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evaltk import cli

Said = tuple[int, str, str]
SMALL = ["--knn.k", "1", "5", "--knn.choose", "20"]


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> Said:
    """(exit code, stdout, stderr) of one command in this process."""
    try:
        code = cli.main([str(a) for a in argv])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return (code, *capsys.readouterr())


def told(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    """The plan as JSON."""
    code, out, err = said(capsys, "plan", *argv, "--json")
    assert code == 0, err
    return json.loads(out)


def readings(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [reading for pair in found["pairs"] for reading in pair["readings"]]
