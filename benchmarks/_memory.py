"""The peak of this process's resident memory, counted anew from a moment on.

`getrusage` will not do: what it tells of a fresh process may be the peak of the one that started it.
"""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def begin() -> float:
    """MiB held now; the peak is counted anew from here on, where the system lets it be."""
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return _status("VmRSS")


def peak() -> float:
    """MiB held at most since `begin`."""
    return _status("VmHWM") if STATUS.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(name: str) -> float:
    return float(next(line for line in STATUS.read_text().splitlines() if line.startswith(name)).split()[1]) / 1024
