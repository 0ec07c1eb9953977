"""One process of a training fails in each of the places where it can: all end, and the error is said once."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import dataclasses, os, signal, sys, time
from evaltk import crew, distributed, progress
from evaltk.errors import DataError, StorageError
from pretrain import __main__ as main, checkpoint, loop
from pretrain.data import loader
from pretrain.monitor import Monitor

what, rank = sys.argv[1], int(os.environ["RANK"])
crew.SILENT, crew.BEAT, crew.GRACE = 2.0, 0.2, 2.0
user_error = DataError(wanted="a thing", got="another", where="there", do="this")

def breaking(owner, name, error, only=1, at=2):
    real, calls = getattr(owner, name), []
    def broken(*args, **kwargs):
        calls.append(1)
        if rank == only and len(calls) > at:
            if callable(error):
                return error()
            raise error
        return real(*args, **kwargs)
    setattr(owner, name, broken)

def hang():
    time.sleep(600)

full = StorageError(wanted="space to write", got="no space left on the disk", where="out", do="free some")
{
    "loading": lambda: breaking(loader.ViewDataset, "__getitem__", user_error, at=20),
    "forward": lambda: breaking(loop, "train_step", user_error),
    "bug": lambda: breaking(loop, "train_step", ValueError("a bug")),
    "saving": lambda: breaking(checkpoint, "write", full, only=0, at=1),
    "monitor": lambda: breaking(Monitor, "_write", user_error, only=0),
    "killed": lambda: breaking(loop, "train_step", lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "stuck": lambda: breaking(loop, "train_step", hang),
    "stopped": lambda: breaking(loop, "train_step", lambda: os.kill(os.getpid(), signal.SIGSTOP)),
    "recipe": lambda: None,
    "start": lambda: breaking(loop, "init_state", user_error, at=0),
    "memory": lambda: breaking(loop, "train_step", MemoryError("no memory")),
}[what]()
sys.exit(crew.together(lambda: main.main(progress.configured(sys.argv[2:])), main.said))
"""
SMALL = [
    "net.arch=vit_patch8_dim24_depth1_heads3_img16", "method.num_prototypes=32", "method.hidden=16",
    "method.bottleneck=8", "views.num_local=1", "optim.batch=300", "optim.epochs=4", "optim.warmup_epochs=1",
    "run.workers=0", "run.knn=0", "run.log_every=1", "run.monitor_every=100", "run.save_minutes=0",
]  # fmt: skip
PLACES = {
    "loading": (2, "got another"),
    "forward": (2, "got another"),
    "bug": (1, "ValueError: a bug"),
    "saving": (2, "no space left on the disk"),
    "monitor": (2, "got another"),
    "recipe": (2, "got (0, 300, 1)"),
    "start": (2, "got another"),
    "memory": (1, "MemoryError"),
}
DEFAULT = ("forward", "saving")


def environment() -> dict[str, str | int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def ended(forks: Any, folder: Path, what: str, *more: str) -> tuple[list[tuple[int, str, str]], float]:
    """(how both processes ended, seconds until they did)."""
    argv = [what, "digits_dino_vmf", "--data", "digits", "--device", "cpu", "--out", folder / "net", "--set", *SMALL]
    env, since = environment(), time.monotonic()
    pids = [forks.start(SCRIPT, [*argv, *more], env | {"RANK": n, "LOCAL_RANK": n}) for n in range(2)]
    if what == "stopped":  # its parent would wake it only at the end
        first = forks.ended(pids[0])
        os.kill(pids[1], signal.SIGKILL)
        return [first, forks.ended(pids[1])], time.monotonic() - since
    return [forks.ended(pid) for pid in pids], time.monotonic() - since


@pytest.mark.parametrize("what", [w if w in DEFAULT else pytest.param(w, marks=pytest.mark.faults) for w in PLACES])
def test_an_error_ends_all_processes_and_is_said_once(what: str, forks: Any, tmp_path: Path) -> None:
    code, said = PLACES[what]
    more = ["optim.epochs=0"] if what == "recipe" else []
    both, _ = ended(forks, tmp_path, what, *more)
    assert [one[0] for one in both] == [code, code], both
    assert sum(one[2].count(said) for one in both) == 1, both
    if code == 2:
        assert "Traceback" not in both[0][2] + both[1][2]


@pytest.mark.parametrize("what", ["killed", pytest.param("stopped", marks=pytest.mark.faults)])
def test_a_process_that_dies_is_named(what: str, forks: Any, tmp_path: Path) -> None:
    both, _ = ended(forks, tmp_path, what)
    assert both[0][0] == 2 and both[1][0] == -signal.SIGKILL, both
    assert both[0][2].count("rank 1") == 1 and "Traceback" not in both[0][2], both


def test_a_wait_has_a_bound_and_is_named(forks: Any, tmp_path: Path) -> None:
    both, _ = ended(forks, tmp_path, "stuck", "run.patience_minutes=0.05")
    assert [one[0] for one in both] == [2, 2], both
    said = both[0][2] + both[1][2]
    assert said.count("minutes in one place") == 1 and "rank 1: step 2" in said, said
