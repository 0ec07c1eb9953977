"""Real commands in processes of their own, what they leave in their folder, and the ways in which they are broken."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from site_of_weights import Site

NET = "random:vit_patch8_dim24_depth1_heads3_img16"
SMALL = [
    "net.arch=vit_patch8_dim24_depth1_heads3_img16", "method.num_prototypes=32", "method.hidden=16",
    "method.bottleneck=8", "views.num_local=1", "optim.batch=300", "optim.epochs=2", "optim.warmup_epochs=1",
    "run.workers=0", "run.knn=50", "run.log_every=1", "run.monitor_every=2", "run.keep_every=1", "run.save_minutes=0",
    "run.disk_minutes=0",
]  # fmt: skip
TUNING = {"lr": 0.01, "epochs": 2, "batch": 32, "group": 16, "repeats": 1, "warmup-epochs": 0}
RUN = ["run", NET, "--data", "digits", "--limit", "60", "--out", "runs", "--cache", "cache", "--device", "cpu"]
COMMANDS = {
    "run": [*RUN, "--protocols", "knn", "--knn.k", "5", "--batch-size", "30"],
    "run with decoding processes": [*RUN, "--protocols", "knn", "--knn.k", "5", "--workers", "2", "--batch-size", "8"],
    "linear": [*RUN, "--protocols", "linear", "--linear.epochs", "2", "--linear.lr", "0.01", "--linear.batch", "32"],
    "fine-tuning": [
        *RUN, "--protocols", "finetune", *[f"--finetune.{key}={value}" for key, value in TUNING.items()]
    ],
    "pretrain": ["pretrain", "digits_dino_vmf", "--data", "digits", "--device", "cpu", "--out", "net", "--set", *SMALL],
    "convert": ["convert", NET, "net.safetensors", "--force"],
    "extract": ["extract", NET, "--data", "digits", "--limit", "60", "--cache", "cache", "--out", "x.npz", "--force"],
    "report": ["report", "--runs", "runs", "--out", "page.html"],
    "fetch": ["fetch", "net", "--catalog", "catalog.toml", "--home", "home"],
}  # fmt: skip
WITH_WORKERS = {"pretrain with decoding processes": [*COMMANDS["pretrain"], "run.workers=2", "optim.epochs=4"]}
ENDED = {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": -9}
TRAINING_ENDED = ENDED | {"SIGTERM": 75}
VOLATILE = ("images_per_second", "seconds_left", "time")  # of lines of a log


Whole = Callable[[str], tuple[Path, dict[str, str], int]]  # see the fixture `whole`


@dataclass(frozen=True)
class Ended:
    """How a process ended, what it said, and how many changes of files it made (-1: it was killed)."""

    code: int
    said: str
    changes: int


class Server:
    """Starts commands; see server.py."""

    def __init__(self) -> None:
        env = dict(os.environ, OMP_NUM_THREADS="1", EVALTK_HOME="/nowhere", PYTHONPATH=os.pathsep.join(sys.path))
        command = [sys.executable, str(Path(__file__).with_name("server.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.site = Site()
        self.place = tempfile.TemporaryDirectory()  # of what commands say, and of results that `report` reads

    def _ask(self, **asked: Any) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, name: str, folder: Path, *more: str, fault: str = "", at: int = 0) -> tuple[int, Path]:
        """Start a command in its folder. Returns: (process id, the file with what it says)."""
        self.prepare(name, folder)
        said = Path(self.place.name) / f"{time.monotonic_ns()}.err"  # on another disk than one that is full
        argv = [*(COMMANDS | WITH_WORKERS)[name], *more]
        pid = self._ask(
            argv=argv, folder=str(folder), stderr=str(said), fault=fault, at=at, count=str(said.with_suffix(".count"))
        )
        return pid, said

    def prepare(self, name: str, folder: Path) -> None:
        """Put into its folder what a command reads and does not make itself."""
        folder.mkdir(parents=True, exist_ok=True)
        if name == "fetch" and not (folder / "catalog.toml").exists():
            (folder / "catalog.toml").write_text(self.site.catalogue())
        if name == "report" and not (folder / "runs").exists():
            made = Path(self.place.name) / "work"
            if not made.exists():
                assert self.run("run", made).code == 0
            shutil.copytree(made / "runs", folder / "runs")

    def wait(self, started: tuple[int, Path]) -> Ended:
        """Wait for the end of a command, and of every process that it started."""
        pid, said = started
        code = self._ask(wait=pid)
        deadline = time.monotonic() + 10
        while _alive(pid):
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                raise AssertionError(f"a process outlived its command: {said.read_text()[-500:]}")
            time.sleep(0.02)
        count = said.with_suffix(".count")
        return Ended(code, said.read_text(errors="replace"), int(count.read_text()) if count.exists() else -1)

    def run(self, name: str, folder: Path, *more: str, fault: str = "", at: int = 0) -> Ended:
        """Start a command and wait for it."""
        return self.wait(self.start(name, folder, *more, fault=fault, at=at))

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.site.close()
        self.place.cleanup()


def _alive(group: int) -> bool:
    """Whether a process of the group lives; dead ones that nobody has waited for do not count."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                return True
    return False


def products(folder: Path) -> dict[str, str]:
    """{file: digest of what a command is to leave}, without what says when and how fast it was made."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.parts):
        name = str(path.relative_to(folder))
        if "damaged" in name or path.name in ("recipe.json", "checkpoint.before.pth"):
            continue
        if path.name == "log.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            content = json.dumps([{k: v for k, v in line.items() if k not in VOLATILE} for line in lines])
        elif path.name == "pins.json":
            pins = json.loads(path.read_text())
            content = json.dumps({n: {k: v for k, v in pin.items() if k != "date"} for n, pin in pins.items()})
        elif path.parent.parent.name == "runs" and path.suffix == ".json":
            tree = json.loads(path.read_text())
            content = json.dumps({k: v for k, v in tree.items() if k not in ("made", "crc32")})
        elif path.name == "x.npz":  # it says when it was made
            with np.load(path) as arrays:
                content = arrays["x"].tobytes().hex() + arrays["y"].tobytes().hex()
        elif path.suffix == ".pth":
            try:
                content = _plain(torch.load(path, weights_only=True))
            except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:  # damaged
                content = f"{type(error).__name__} {path.read_bytes().hex()}"
        else:
            content = path.read_bytes().hex()
        found[name] = hashlib.sha256(content.encode()).hexdigest()
    return found


def _plain(value: Any) -> str:
    """A tree of tensors as text; the bytes of its file also depend on which objects were the same one."""
    if isinstance(value, torch.Tensor):
        return (
            f"{value.dtype} {list(value.shape)} {value.contiguous().view(-1).view(torch.uint8).numpy().tobytes().hex()}"
        )
    if isinstance(value, dict):
        return "".join(f"{key!r}: {_plain(value[key])}, " for key in sorted(value, key=str))
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else repr(value)


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders, locks and unfinished entries; but for the locks of downloads, which stay."""
    return [
        str(p.relative_to(folder)) for p in folder.rglob("*")
        if (p.name.startswith(".") and not ("home" in p.parts and p.suffix == ".lock"))
        or p.name.endswith((".part", ".partial", ".new"))
    ]  # fmt: skip


def one_line(ended: Ended) -> None:
    """There is no traceback, and of a command that failed the last line is the command line's."""
    assert "Traceback" not in ended.said, ended.said[-2000:]
    assert not ended.code or ended.said.rstrip().splitlines()[-1].startswith("evaltk: "), ended.said[-500:]


def spoil(path: Path, how: str, rng: random.Random) -> None:
    """Flip a bit of a file, cut it, empty it or remove it."""
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    if how == "flipped" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes({"flipped": data, "cut": data[: rng.randrange(len(data) or 1)], "empty": b""}[how])


def copy(source: Path, target: Path) -> Path:
    """A copy of a folder, in place of whatever was there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
