"""A training on two processes that is disturbed again and again, and the ways in which it is."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "net.arch=vit_patch8_dim24_depth1_heads3_img16", "method.num_prototypes=32", "method.hidden=16",
    "method.bottleneck=8", "views.num_local=1", "optim.warmup_epochs=1", "run.workers=0", "run.knn=20",
    "run.log_every=1", "run.monitor_every=100", "run.save_minutes=0", "run.disk_minutes=0",
]  # fmt: skip
# sitecustomize.py of a machine whose disk is full from the n-th file on that is opened to be written in a folder.
FULL_DISK = """
import errno, os, sys
at, folder = int(os.environ.get("SOAK_FULL", "0")), os.environ.get("SOAK_FOLDER", "")
count = 0
def hook(event, given):
    global count
    if event == "open" and str(given[0]).startswith(folder) and given[2] & (os.O_WRONLY | os.O_RDWR):
        count += 1
        if count >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), given[0])
if at:
    sys.addaudithook(hook)
"""
STOPPED = {"SIGTERM": 75, "SIGUSR1": 75, "SIGINT": 130}


def write_digits(folder: Path, number: int) -> Path:
    """The first of scikit-learn's digits as PNG files in a folder per class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    for i in range(number):
        path = folder / str(found.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((found.images[i] * 15).astype(np.uint8)).convert("RGB").save(path)
    return folder


def entry_points(folder: Path) -> Path:
    """The entry points of pyproject.toml as an installation lists them, in a folder for PYTHONPATH."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["torchrun.handlers"]
    made = folder / "evaltk-0.1.0.dist-info"
    made.mkdir(parents=True, exist_ok=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: evaltk\nVersion: 0.1.0\n")
    listed = "\n".join(f"{name} = {value}" for name, value in table.items())
    (made / "entry_points.txt").write_text(f"[torchrun.handlers]\n{listed}\n")
    return folder


def started(mark: str) -> list[int]:
    """The living processes with this text in their environment: torchrun starts each of its own in a new session."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return sorted(found)


@dataclass
class Training:
    """The command, started as often as it takes.

    Attributes:
        settings: beyond SETTINGS. starts: how often it was started. faults: how often each was tried.
        marks: {process: what the environment of all that it starts has, and no other}.
    """

    folder: Path
    data: Path
    settings: list[str]
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    marks: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = entry_points(self.folder / "first")
        (first / "sitecustomize.py").write_text(FULL_DISK)
        self.path = os.pathsep.join([str(first), *sys.path])
        self.out, self.said = self.folder / "net", self.folder / "said.txt"

    def start(self, full: int = 0, said: Path | None = None) -> subprocess.Popen:
        """Start it under torchrun."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            str(port),
            "-m",
            "pretrain",
        ]
        words = ["digits_dino_vmf", "--data", f"folder={self.data}", "--device", "cpu", "--out", str(self.out)]
        given = [*torchrun, *words, "--set", *SETTINGS, *self.settings]
        env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=self.path, EVALTK_HOME=str(self.folder / "home"))
        env |= {"SOAK_FULL": str(full), "SOAK_FOLDER": str(self.out), "SOAK_PORT": str(port)}
        with (said or self.said).open("wb") as stream:
            self.starts += said is None
            process = subprocess.Popen([sys.executable, *given], env=env, cwd=self.folder, stdout=stream, stderr=stream)
        self.marks[process.pid] = f"SOAK_PORT={port}"
        return process

    def processes(self, process: subprocess.Popen) -> list[int]:
        """torchrun, if it lives, and what it has started."""
        return started(self.marks[process.pid])

    def send(self, process: subprocess.Popen, number: int) -> None:
        """A signal to all of them."""
        for pid in self.processes(process):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def lines(self) -> int:
        """Lines of the log."""
        with suppress(OSError):
            return (self.out / "log.jsonl").read_bytes().count(b"\n")
        return 0

    def wait_for_steps(self, process: subprocess.Popen, number: int) -> None:
        """Wait until it has taken so many more steps, or has ended."""
        while process.poll() is None and b": step " not in self.said.read_bytes():
            time.sleep(0.02)
        begun = self.said.read_bytes().count(b": step ")
        while process.poll() is None and self.said.read_bytes().count(b": step ") < begun + number:
            time.sleep(0.005)

    def ended(self, process: subprocess.Popen, seconds: float = 600) -> int:
        """The exit code, once every process that it started has ended."""
        deadline = time.monotonic() + seconds
        code = process.wait(seconds)
        while left := self.processes(process):
            if time.monotonic() > deadline:
                self.send(process, signal.SIGKILL)
                raise AssertionError(f"processes {left} outlived their command: {self.said.read_text()[-3000:]}")
            time.sleep(0.05)
        return code

    def disturb(self, fault: str, rng: random.Random) -> int:
        """Start it, and break it. Returns: the exit code."""
        process = self.start(full=rng.randint(3, 40) if fault == "full disk" else 0)
        self.wait_for_steps(process, rng.randint(1, 30))
        if process.poll() is None:
            self.faults[fault] += 1
            code = FAULTS[fault](self, process, rng)
        else:
            code = self.ended(process)
            self.faults[fault] += code != 0
        allowed = {"full disk": (0, 2), "damaged image": (0, 2)} | {name: (0, n) for name, n in STOPPED.items()}
        said = self.said.read_text(errors="replace")
        assert code in allowed.get(fault, (code,)), f"{fault}: {code}: {said[-3000:]}"
        assert "Traceback" not in said, f"{fault}: {said[-3000:]}"
        return code


def by_signal(name: str) -> Callable[[Training, subprocess.Popen, random.Random], int]:
    """A signal, to torchrun alone or to all processes."""

    def send(training: Training, process: subprocess.Popen, rng: random.Random) -> int:
        everyone = name == "SIGINT" or rng.random() < 0.5
        if everyone:
            training.send(process, getattr(signal, name))
        else:
            process.send_signal(getattr(signal, name))
        return training.ended(process)

    return send


def kill_one(training: Training, process: subprocess.Popen, rng: random.Random) -> int:
    """SIGKILL to one of the two."""
    if workers := [pid for pid in training.processes(process) if pid != process.pid]:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
    return training.ended(process)


def kill_torchrun(training: Training, process: subprocess.Popen, rng: random.Random) -> int:
    """SIGKILL to torchrun, whose processes are left alone."""
    process.kill()
    return training.ended(process)


def kill_all(training: Training, process: subprocess.Popen, rng: random.Random) -> int:
    """SIGKILL to all, as a machine that goes down."""
    training.send(process, signal.SIGKILL)
    return training.ended(process)


def damage_checkpoint(training: Training, process: subprocess.Popen, rng: random.Random) -> int:
    """A machine that goes down, and a bit of its last checkpoint with it."""
    code = kill_all(training, process, rng)
    path = training.out / "checkpoint.pth"
    if path.exists():
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        replaced = path.with_name("damage")  # not its other name, a kept epoch's
        replaced.write_bytes(data)
        replaced.replace(path)
    return code


def damage_image(training: Training, process: subprocess.Popen, rng: random.Random) -> int:
    """An image that cannot be read for a while."""
    path = rng.choice(sorted(training.data.rglob("*.png")))
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    try:
        return training.ended(process)
    finally:
        path.write_bytes(whole)


def start_twice(training: Training, process: subprocess.Popen, rng: random.Random) -> int:
    """The same command in the same folder, while the first runs."""
    said = training.folder / "second.txt"
    second = training.start(said=said)
    code = training.ended(second)
    text = said.read_text()
    if process.poll() is None or code:
        assert code == 2 and text.count("under way") == 1 and "Traceback" not in text, f"{code}: {text}"
    process.terminate()
    return training.ended(process)


def fill_disk(training: Training, process: subprocess.Popen, rng: random.Random) -> int:
    """The disk is full already, see FULL_DISK."""
    return training.ended(process)


FAULTS: dict[str, Callable[[Training, subprocess.Popen, random.Random], int]] = {
    "SIGKILL of one": kill_one,
    "SIGKILL of all": kill_all,
    "SIGKILL of torchrun": kill_torchrun,
    **{name: by_signal(name) for name in STOPPED},
    "full disk": fill_disk,
    "damaged image": damage_image,
    "damaged checkpoint": damage_checkpoint,
    "second start": start_twice,
}
