"""CPU seconds until a command answers: errors and help without torch, beside importing torch alone."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = (
    ["--help"],
    ["run", "--help"],
    ["run", "no-such-file.pth", "--data", "digits"],
    ["inspect", "no-such-file.pth"],
    ["extract", "no-such-file.pth", "--data", "digits", "--out", "x.npz"],
    ["pretrain", "no-such-recipe"],
    ["pretrain", "--help"],
    ["table", "--runs", "nowhere"],
    ["ls", "checkpoints"],
)


def main() -> None:
    """Print the CPU seconds of each command, and of `import torch`, `import evaltk` and evaltk's loader."""
    for code in ("import torch", "import timm", "import evaltk", "import evaltk.checkpoints.load"):
        print(f"{seconds([sys.executable, '-c', code]):6.2f} s  {code}")
    for words in COMMANDS:
        print(f"{seconds([sys.executable, '-m', 'evaltk', *words]):6.2f} s  evaltk {' '.join(words)}")


def seconds(command: list[str]) -> float:
    """CPU seconds of a process, the least of three."""
    return min(_once(command) for _ in range(3))


def _once(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
