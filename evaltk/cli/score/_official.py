"""Run the official scoring code of a checkout, unchanged, in a process of its own, and compare its numbers with ours.

davis2017-evaluation: davis2017/evaluation.py (`DAVISEvaluation`); revisitop: python/evaluate.py (`compute_map`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaltk.errors import DataError, SettingsError

TOLERANCE = 1e-6
# These texts run in the official checkout: they call its functions and write what comes back as JSON.
DAVIS_DRIVER = """
import json, sys
from davis2017.evaluation import DAVISEvaluation
davis, results, split, out = sys.argv[1:]
found = DAVISEvaluation(davis_root=davis, task="semi-supervised", gt_set=split).evaluate(results)
table = {}
for measure in "JF":
    names = list(found[measure]["M_per_object"])
    for row, name in enumerate(names):
        for statistic, word in (("M", "Mean"), ("R", "Recall"), ("D", "Decay")):
            table[name + " " + measure + "-" + word] = float(found[measure][statistic][row])
json.dump(table, open(out, "w"))
"""
REVISITOP_DRIVER = """
import json, sys
import numpy as np
if not hasattr(np, "in1d"):
    np.in1d = np.isin
from evaluate import compute_map
ranks, truth, out = sys.argv[1:]
ranks, truth = np.load(ranks).T, json.load(open(truth))
table = {}
for difficulty, gnd in truth.items():
    mean, aps, precisions, each = compute_map(ranks, gnd, [1, 5, 10])
    table[difficulty + " map"] = float(mean)
    for k, value in zip((1, 5, 10), precisions):
        table[difficulty + " mp@" + str(k)] = float(value)
    for query, value in enumerate(aps):
        table[difficulty + " ap of query " + str(query)] = float(value)
json.dump(table, open(out, "w"))
"""


def davis(checkout: Path, root: Path, results: Path, split: str, *, python: str | None = None) -> dict[str, float]:
    """{"SEQUENCE_ID J-Mean" and so on: fraction} by a checkout of davis2017-evaluation. Raises: SettingsError."""
    _wanted(checkout, checkout / "davis2017" / "evaluation.py", "davisvideochallenge/davis2017-evaluation")
    arguments = [str(path.resolve()) for path in (root, results)]
    return _run(checkout, DAVIS_DRIVER, [*arguments, split], python)


def revisitop(
    checkout: Path, ranks: np.ndarray, truth: Mapping[str, Any], *, python: str | None = None
) -> dict[str, float]:
    """{"medium map", "medium ap of query 0" and so on: fraction} by a checkout of revisitop. Raises: SettingsError.

    Args:
        ranks: [Q, N]. truth: {difficulty: a query {"ok", "junk"}}, as the original takes it.
    """
    folder = checkout / "python" if (checkout / "python").is_dir() else checkout
    _wanted(checkout, folder / "evaluate.py", "filipradenovic/revisitop")
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / "ranks.npy", Path(place) / "truth.json"
        np.save(files[0], ranks)
        files[1].write_text(json.dumps(truth), encoding="utf-8")
        return _run(folder, REVISITOP_DRIVER, list(map(str, files)), python)


def _wanted(checkout: Path, file: Path, repository: str) -> None:
    if not file.is_file():
        raise SettingsError(
            wanted=f"a checkout of github.com/{repository}",
            got=f"no {file.name} in it" if checkout.is_dir() else "no such folder",
            where=f"--official {checkout}",
            do=f"git clone https://github.com/{repository}",
        )


def _run(folder: Path, driver: str, arguments: Sequence[str], python: str | None) -> dict[str, float]:
    """What the driver writes. The official tools end with status 0 on bad input: then there is no output file."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.json"
        paths = [str(folder.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [python or sys.executable, "-c", driver, *arguments, str(out)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not out.exists():
            told = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
            raise SettingsError(
                wanted="numbers from the official code",
                got=f"exit status {done.returncode}: {told[-1][:200] if told else 'no output'}",
                where=folder,
                do="install what it imports, or name a Python that has it with --official-python",
            )
        return {str(k): float(v) for k, v in json.loads(out.read_text(encoding="utf-8")).items()}


def largest_difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """The largest absolute difference; numbers undefined on both sides are equal.

    Raises: DataError: a number only one side has, or a difference above 1e-6 (it is named).
    """
    alone = sorted(ours.keys() ^ theirs.keys())
    if alone:
        got = f"{len(alone)} on one side only, the first {alone[0]}"
        raise DataError(
            wanted="the same numbers from both", got=got, where="--official", do="check that both score the same data"
        )
    worst, where = 0.0, ""
    for name, value in ours.items():
        other = theirs[name]
        difference = 0.0 if np.isnan(value) and np.isnan(other) else abs(value - other)
        if not difference <= worst:  # NaN on one side is a difference, too
            worst, where = difference, name
            if np.isnan(difference):
                break
    if not worst <= TOLERANCE:
        raise DataError(
            wanted=f"at most {TOLERANCE:g} between ours and the official code",
            got=f"{worst:.3g} in {where}: ours {ours[where]:.8f}, official {theirs[where]:.8f}",
            where="--official",
            do="report it with the masks or rankings concerned",
        )
    return worst
