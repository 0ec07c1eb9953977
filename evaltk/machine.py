"""The machine and software a result was computed with: versions, commit, device, seconds, date, usable cores."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def provenance(device: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Provenance of a result: {versions, git, device, seconds, date}. Nothing in it affects a score."""
    packages = ("evaltk", "torch", "torchvision", "timm", "numpy", "pillow")
    return {
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "git": _commit(),
        "device": _device_name(device),
        "seconds": dict(seconds),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"


def usable_cores() -> int:
    """Number of CPU cores this process may use, at least 1: its affinity mask where the system has one, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(package: str) -> str:
    """The installed version of a package, or ``unknown``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str | None:
    """The commit of the source tree in use (with + if it was modified), None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
