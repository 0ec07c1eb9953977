"""What does not belong to a request changes no score: threads, batch size, decoding processes, order, hash seed.

`DIFFER` lists what does, with its reason; anything else has to be equal to the bit, predictions included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

NETS = ("random:vit_patch4_dim48_depth2_heads3_img16@1", "random:vit_patch4_dim48_depth2_heads3_img16@2")
COMMAND = (
    *("run", "--data", "digits", "--limit", "200", "--device", "cpu", "--out", "runs", "--cache", "cache"),
    *("--protocols", "knn", "linear", "fewshot", "finetune", "--knn.k", "5", "--linear.epochs", "2"),
    *("--linear.lr", "0.01", "--linear.batch", "32", "--finetune.lr", "0.01", "--finetune.epochs", "1"),
    *("--finetune.batch", "32", "--finetune.group", "16", "--finetune.repeats", "1", "--finetune.warmup-epochs", "0"),
)
PLAIN = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "words": "--batch-size 32 --workers 0", "nets": "0 1"}
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "the same again": {},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "another hash seed": {"PYTHONHASHSEED": "7"},
    "two decoding processes": {"words": "--batch-size 32 --workers 2"},
    "checkpoints in another order": {"nets": "1 0"},
    "batches of 7": {"words": "--batch-size 7 --workers 0"},
    "batches as large as the set": {"words": "--batch-size 500 --workers 0"},
}
# (setting, protocol, array or score) -> (largest relative difference, reason). No accuracy and no prediction differs.
DIFFER: Mapping[tuple[str, str, str], tuple[float, str]] = {
    ("two threads", "finetune", "train_loss"): (1e-5, "gradients are summed in parts, one a thread"),
    ("two threads", "finetune", "confidence"): (1e-4, "gradients are summed in parts, one a thread"),
    ("two threads", "linear", "confidence"): (1e-4, "likewise"),
    ("two threads", "fewshot", "confidence"): (1e-4, "L-BFGS stops within its tolerance of the optimum"),
}


def kind(what: str) -> str:
    """An array or score, without its settings; probabilities and their calibration errors are one kind."""
    return "confidence" if what.startswith("ece") or what.endswith("_confidence") else what


def scores(folder: Path, setting: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """{"NET PROTOCOL": {metric and where: value, array: itself}} of one run of the command."""
    told = {**PLAIN, **setting}
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "EVALTK_HOME": str(folder / "home")}
    env |= {key: told[key] for key in ("OMP_NUM_THREADS", "PYTHONHASHSEED")}
    nets = [NETS[int(i)] for i in told["nets"].split()]
    words = [sys.executable, "-m", "evaltk", *COMMAND[:1], *nets, *COMMAND[1:], *told["words"].split()]
    folder.mkdir()
    ran = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = {}
    for path in sorted((folder / "runs").rglob("*.json")):
        tree = json.loads(path.read_text())
        of = {f"{s['metric']} {s['dataset']} {s['split']} {json.dumps(s['at'])}": s["value"] for s in tree["scores"]}
        beside = path.with_suffix(".predictions.npz")
        if beside.exists():
            with np.load(beside) as arrays:
                of |= {name: arrays[name] for name in arrays.files}
        found[f"{tree['checkpoint']['name']} {tree['protocol']}"] = of
    return found


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Of the command as it is compared with."""
    return scores(tmp_path_factory.mktemp("plain") / "work", {})


@pytest.mark.faults
@pytest.mark.parametrize("name", SETTINGS)
def test_the_machine_changes_no_score(name: str, plain: dict[str, dict[str, object]], tmp_path: Path) -> None:
    found = scores(tmp_path / "work", SETTINGS[name])
    assert found.keys() == plain.keys() and len(found) == 8
    for cell, values in found.items():
        assert values.keys() == plain[cell].keys()
        for what, value in values.items():
            wanted, (bound, _) = plain[cell][what], DIFFER.get((name, cell.split()[-1], kind(what)), (0.0, ""))
            if bound:
                np.testing.assert_allclose(value, wanted, rtol=bound, err_msg=f"{cell} {what}")
            else:
                np.testing.assert_array_equal(value, wanted, err_msg=f"{cell} {what}")
