"""The machine: the device a command computes on, and what a result says of versions, commit, device and date."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from evaltk.errors import SettingsError


def resolve_device(device: str, *, mps: bool = True) -> str:
    """The device that ``--device`` stands for on this machine: ``auto`` is cuda, else mps, else cpu.

    Args:
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        mps: whether it will do; False for what computes in float64 there, which mps does not have.

    Raises: SettingsError: another name, or a device that this machine does not have.
    """
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if num_gpus else "mps" if mps and torch.backends.mps.is_available() else "cpu"
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isascii() and number.isdigit())):
        wanted = "auto, cpu, mps, cuda or cuda:N"
        raise SettingsError(wanted=wanted, got=repr(device), where="--device", do="--device auto")
    if kind == "cuda" and int(number or 0) >= num_gpus:
        got = f"{device!r} on a machine with {num_gpus} GPU{'' if num_gpus == 1 else 's'}"
        do = f"--device cuda:{num_gpus - 1}, or --device auto" if num_gpus else "--device auto, or --device cpu"
        if not num_gpus:
            got, do = f"{got} ({_without_cuda()})", f"see nvidia-smi, or {do}"
        raise SettingsError(wanted="a CUDA GPU that torch can use", got=got, where="--device", do=do)
    if kind == "mps" and not torch.backends.mps.is_available():
        do = "--device auto, or --device cpu"
        raise SettingsError(wanted="mps, the GPU of a Mac", got="a machine without", where="--device", do=do)
    if kind == "mps" and not mps:
        do = "--device cpu, or --device auto"
        raise SettingsError(wanted="a device with float64", got="mps, which has none", where="--device", do=do)
    return device


def _without_cuda() -> str:
    """Why torch can use no GPU: itself, the environment, or in the driver's own words."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides all GPUs"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # e.g. a driver that is older than torch's CUDA
        return " ".join(str(error).split())[:80]
    return "torch sees none"


def provenance(device: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """What was at work: versions, commit, device, seconds, date. Nothing in it changes a score.

    Args:
        device: the one that was used, as `resolve_device` returns it; recorded as ``cuda (NVIDIA H100 80GB HBM3)``.
    """
    packages = ("evaltk", "torch", "torchvision", "timm", "numpy", "pillow")
    return {
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "git": _commit(),
        "device": _device_name(device),
        "seconds": dict(seconds),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    } | _command()


def _command() -> dict[str, str]:
    """The command line, with ``~`` for the home folder; nothing where another program called."""
    program = Path(sys.argv[0])
    if program.name != "evaltk" and program.parts[-2:] != ("evaltk", "__main__.py"):
        return {}
    return {"command": shlex.join(["evaltk", *sys.argv[1:]]).replace(str(Path.home()), "~")}


def _device_name(device: str) -> str:
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    return f"{device} ({name})" if name else device


def usable_cores() -> int:
    """Number of CPU cores this process may use, at least 1: its affinity mask where the system has one, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spare_memory() -> int | None:
    """Bytes that this process could have resident: what is free, what it has, and what its control group allows.

    None where the system does not tell (not Linux).
    """
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        own = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        spare = int(lines["MemAvailable"].split()[0]) * 1024 + own
    except (OSError, KeyError, ValueError, IndexError):
        return None
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            spare = min(spare, int(Path(limit).read_text()))
    return spare


def version(package: str) -> str:
    """The installed version of a package, or ``unknown``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
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
