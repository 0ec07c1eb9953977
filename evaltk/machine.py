"""What was at work when a number was made: versions, commit, device, seconds, date."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def provenance(device: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """What was at work: versions, commit, device, seconds, date. Nothing in it changes a score."""
    parts = ("evaltk", "torch", "torchvision", "timm", "numpy", "pillow")
    return {
        "versions": {"python": platform.python_version()} | {part: version(part) for part in parts},
        "git": _commit(),
        "device": _device_name(device),
        "seconds": dict(seconds),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"


def version(part: str) -> str:
    """The installed version of a package, or ``unknown``."""
    try:
        return importlib.metadata.version(part)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str | None:
    """The commit of the source tree this runs from (with + where it was changed), None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
