"""One process of `evaltk run` fails while features are extracted or a net is tuned: all end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import os, sys
from evaltk import cli
from evaltk.errors import DataError
from evaltk.features import extraction
from protocols.finetune import training as tuning

where, rank = sys.argv[1], os.environ["RANK"]
def broken(*args, **kwargs):
    raise DataError(wanted="a thing", got="another", where="there", do="this")
if rank == "1":
    owner, name = {"extraction": (extraction, "key_of"), "finetune": (tuning, "_loss")}[where]
    setattr(owner, name, broken)
sys.exit(cli.main(sys.argv[2:]))
"""
NET = "random:vit_patch8_dim24_depth1_heads3_img16"
TUNING = {"lr": 0.01, "epochs": 2, "batch": 32, "group": 16, "repeats": 1, "warmup-epochs": 0}
WORDS = {
    "extraction": ["knn", "--knn.k", "5"],
    "finetune": ["finetune", *[f"--finetune.{key}={value}" for key, value in TUNING.items()]],
}


@pytest.mark.faults
@pytest.mark.parametrize("where", [*WORDS])
def test_all_processes_end_with_the_error_of_one(where: str, forks: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    out = ["--out", tmp_path / "runs", "--cache", tmp_path / "cache", "--device", "cpu"]
    argv = [where, "run", NET, "--data", "digits", "--limit", "60", *out, "--protocols", *WORDS[where]]
    pids = [forks.start(SCRIPT, argv, env | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(2)]
    both = [forks.ended(pid) for pid in pids]
    assert [code for code, _, _ in both] == [2, 2], both
    said = both[0][2] + both[1][2]
    assert said.count("got another") == 1 and "Traceback" not in said
