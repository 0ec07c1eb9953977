"""A training on two processes is broken every few seconds, and ends at the bits of one that was left alone."""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path
from typing import Any

import harness
import pytest
import soak


@pytest.mark.soak
def test_two_processes_that_are_stopped_and_killed(forks: Any, tmp_path: Path) -> None:
    """The short one: without torchrun, whose start takes longer than the training."""
    data, rng = soak.write_digits(tmp_path / "digits", 60), random.Random(0)
    assert _both(forks, tmp_path / "whole", data) == [0, 0]
    ends = [_both(forks, tmp_path / "broken", data, name, rng.randint(3, 20)) for name in ("SIGUSR1", "SIGKILL", "")]
    assert ends == [[75, 75], [2, -9], [0, 0]]
    assert harness.products(tmp_path / "broken") == harness.products(tmp_path / "whole")
    assert harness.leftovers(tmp_path / "broken") == []


SCRIPT = """
import os, signal, sys
from evaltk import crew, progress
from pretrain import __main__ as main, loop

name, at = sys.argv[1], int(sys.argv[2])
real, calls, rank = loop.train_step, [], os.environ["RANK"]
def step(*args, **kwargs):
    calls.append(1)
    if name and len(calls) == at and rank == "1":
        os.kill(os.getpid(), getattr(signal, name))
    return real(*args, **kwargs)
loop.train_step = step
sys.exit(crew.together(lambda: main.main(progress.configured(sys.argv[3:])), main.said))
"""


def _both(forks: Any, out: Path, data: Path, name: str = "", at: int = 0) -> list[int]:
    """The exit codes of two processes, one of which gets a signal at a step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    words = ["digits_dino_vmf", "--data", f"folder={data}", "--device", "cpu", "--out", out, "--set", *soak.SETTINGS]
    argv = [name, at, *words, "optim.epochs=16", "optim.batch=20", "run.keep_every=4"]
    pids = [forks.start(SCRIPT, argv, env | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(2)]
    return [forks.ended(pid)[0] for pid in pids]


@pytest.mark.soak
def test_a_training_that_is_broken_every_few_seconds(tmp_path: Path) -> None:
    epochs, seed = int(os.environ.get("SOAK_EPOCHS", "200")), int(os.environ.get("SOAK_SEED", "0"))
    _run(tmp_path, epochs=epochs, images=200, batch=50, faults=[*soak.FAULTS] * 2, seed=seed)


def _run(folder: Path, *, epochs: int, images: int, batch: int, faults: list[str], seed: int) -> None:
    """Each fault in a drawn order, over and over until the training ends."""
    data = soak.write_digits(folder / "digits", images)
    settings = [f"optim.epochs={epochs}", f"optim.batch={batch}", f"run.keep_every={max(1, epochs // 4)}"]
    whole = soak.Training(folder / "whole", data, settings)
    since = time.monotonic()
    process = whole.start()
    assert whole.ended(process, 1000) == 0, whole.said.read_text()[-3000:]
    undisturbed = time.monotonic() - since
    broken, rng = soak.Training(folder / "broken", data, settings), random.Random(seed)
    code, order = 1, []
    while code or broken.lines() == 0:
        order = order or rng.sample(faults, len(faults))
        code = broken.disturb(order.pop(), rng)
        assert broken.starts < 500
    assert harness.products(broken.out) == harness.products(whole.out)
    assert harness.leftovers(broken.out) == []
    counts = ", ".join(f"{name} {number}" for name, number in sorted(broken.faults.items()))
    seconds = time.monotonic() - since - undisturbed
    print(f"{epochs} epochs: {undisturbed:.0f} s undisturbed; {broken.starts} starts in {seconds:.0f} s; {counts}")
