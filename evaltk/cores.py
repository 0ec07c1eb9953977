"""Processor cores that this process may use."""

from __future__ import annotations

import os


def usable() -> int:
    """Cores, at least 1: those that the scheduler allows this process where the system says so, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
