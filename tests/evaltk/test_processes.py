"""How processes end."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATE = """
import atexit, os, signal
from evaltk import processes
atexit.register(os.kill, os.getpid(), signal.{name})  # runs after what is registered later
{ignore}
"""


@pytest.mark.parametrize(("ignore", "ends"), [("processes.ignore_at_exit()", True), ("", False)])
def test_a_stop_signal_while_python_ends_leaves_the_exit_code(ignore: str, ends: bool) -> None:
    for name in ("SIGTERM", "SIGUSR1"):
        code = subprocess.run([sys.executable, "-c", LATE.format(name=name, ignore=ignore)]).returncode
        assert (code == 0) == ends
