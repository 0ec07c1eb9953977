"""The tests on the stand-in, in a process of their own: a device has to be there before autograd is first used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_what_a_gpu_would_refuse() -> None:
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-m", "device and not slow"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    here = Path(__file__).parent
    ran = subprocess.run([*words, str(here)], cwd=here.parents[1], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:]
