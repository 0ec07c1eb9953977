"""Commands whose standard streams are closed, full or of another encoding, and whose folder is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EVALTK = f"{sys.executable} -m evaltk"
FULL = Path("/dev/full")


def shell(line: str, cwd: Path, **more: str) -> tuple[int, str, str]:
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=cwd, env=os.environ | more, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_closed_stream_gets_no_file_of_ours(tmp_path: Path) -> None:
    """Its number would be the next file's, and what is printed would be part of that file."""
    code = (
        "from evaltk import streams; import os, sys; streams.prepare(); kept = open('kept', 'w');"
        "print('to stdout'); print('to stderr', file=sys.stderr); os.write(1, b'raw'); os.write(2, b'raw');"
        "sys.stdout.flush(); kept.write(str(kept.fileno()))"
    )
    assert shell(f'{sys.executable} -c "{code}" <&- >&- 2>&-', tmp_path) == (0, "", "")
    assert (tmp_path / "kept").read_text() == "3"
    assert shell(f"{EVALTK} ls tables >&-", tmp_path) == (0, "", "")
    assert shell(f"{EVALTK} table --runs nope 2>&-", tmp_path) == (2, "", "")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", ["ls checkpoints", "--help", "run --help", "--version"])
def test_output_that_a_full_disk_does_not_take(command: str, tmp_path: Path) -> None:
    code, _, err = shell(f"{EVALTK} {command} > {FULL}", tmp_path)
    assert code == 2 and "got no space left on the disk; where: standard output; do: " in err and err.count("\n") == 1
    assert shell(f"{EVALTK} nope 2> {FULL}", tmp_path)[0] == 2


def test_an_encoding_without_our_letters(tmp_path: Path) -> None:
    code = "from evaltk import cli; import sys; cli.streams = cli._begun(['--version']); print('\\xb1 \\udcff')"
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    assert shell(f'{sys.executable} -c "{code}"', tmp_path, **ascii_only)[1].splitlines()[1] == r"\xb1 \udcff"


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    for module in ("evaltk ls datasets", "pretrain digits_dino_vmf"):
        (tmp_path / "gone").mkdir()
        code, out, err = shell(f"cd gone && rmdir ../gone && {sys.executable} -m {module}", tmp_path)
        assert (code, out) == (2, "") and err.startswith("evaltk: wanted a working folder; got one that was removed")
