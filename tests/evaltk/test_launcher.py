"""Cells as jobs: by submitit's executor for this machine, which starts the processes that Slurm would."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from evaltk import cli, results
from evaltk.cli import _asked, _launched
from evaltk.cli._resources import Resources
from evaltk.errors import SettingsError

SUITE = """
checkpoints = ["pixels:8", "pixels:7", "pixels:6", "pixels:5"]
data = ["digits", "b:digits"]
limit = 60
protocols = [{name = "knn", k = [1, 5], choose = 0}, {name = "knn", k = [3], choose = 0}, "prototypes"]
[matrix]
except = [{protocol = "prototypes", checkpoint = "pixels:[678]"}, {protocol = "prototypes", data = "b"}]
[slurm]
minutes = 30
gb = 4
cpus = 1
setup = ["module load cuda"]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_launched, "POLL", 0.05)
    (tmp_path / "suite.toml").write_text(SUITE)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command in this process."""
    code = cli.main([str(a) for a in argv])
    return (code, *capsys.readouterr())


def products(folder: Path) -> dict[str, Any]:
    """All that results say but when and where they were made, and their predictions' bytes."""
    found = {}
    for path, _ in results.find(folder):
        told = json.loads(path.read_text())
        told.pop("crc32")
        told.pop("made")
        found[path.name] = told, results.predictions_path(path).read_bytes()
    return found


@pytest.mark.slow
def test_jobs_give_what_one_process_gives(here: Path, capsys: Any, monkeypatch: Any) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    assert said(capsys, "run", "suite.toml", "--out", "alone", "-q")[0] == 2
    argv = ["run", "suite.toml", "--launcher", "local", "--slurm.jobs", "2", "-q"]
    code, _, err = said(capsys, *argv)
    assert code == 2 and err.splitlines()[-1] == "evaltk: 17 results: 16 new, 0 there before, 1 failed"
    assert "failed: prototypes of pixels:5 on digits: wanted a checkpoint with its projection head" in err
    assert len(products(here / "alone")) == 16 and products(here / "runs") == products(here / "alone")
    assert len([*(here / "runs" / "slurm").glob("*/*_submitted.pkl")]) == 2
    code, _, err = said(capsys, *argv)  # what is done stays done: one job, for what failed
    assert code == 2 and err.splitlines()[-1] == "evaltk: 17 results: 0 new, 16 there before, 1 failed"


class Job:
    """A job that has ended."""

    job_id, state = "123_0", "OUT_OF_MEMORY"

    class paths:  # noqa: N801
        stderr = "slurm/123_0/log.err"

    def done(self) -> bool:
        return True


def test_a_job_that_was_killed_is_a_failure(here: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(_launched, "check", lambda launcher: None)
    monkeypatch.setattr(_launched, "_submit", lambda argv, shares, *rest: [Job() for _ in shares])
    argv = ["run", "pixels:8", "--data", "digits", "--limit", "60", "--knn.k", "5", "--launcher", "slurm", "-q"]
    code, out, err = said(capsys, *argv)
    assert code == 2 and not out
    assert "its job 123_0 ended without it (OUT_OF_MEMORY); see slurm/123_0/log.err" in err
    assert len([*(here / "runs").rglob("*.failed")]) == 1


def test_the_cells_are_dealt_by_pairs(here: Path) -> None:
    cells = _asked.cells_of(_asked.asked(["suite.toml"], "run", None))
    for jobs in (1, 3, 50):
        shares = _launched._shares(cells, Resources(jobs=jobs), "slurm")
        assert [path for share in shares for path in share] == [str(cell.job.path) for cell in cells]
        of = {(cell.job.name, cell.job.dataset.name): set[int]() for cell in cells}
        for cell in cells:
            of[cell.job.name, cell.job.dataset.name] |= {
                n for n, share in enumerate(shares) if str(cell.job.path) in share
            }
        assert len(shares) == min(jobs, 8) and all(len(numbers) == 1 for numbers in of.values())


def test_resources_of_the_file_and_the_command_line(here: Path) -> None:
    argv = ["suite.toml", "--slurm.gpus", "1", "--slurm.minutes", "60", "--slurm.partition", "gpu"]
    resources = _asked.asked(argv, "run", None).options.slurm_resources
    assert resources == Resources(minutes=60, gb=4, cpus=1, gpus=1, partition="gpu", setup=("module load cuda",))
    assert resources.parameters("slurm") == {
        "name": "evaltk", "timeout_min": 60, "cpus_per_task": 1, "mem_gb": 4, "gpus_per_node": 1,
        "slurm_partition": "gpu", "slurm_setup": ["module load cuda"],
    }  # fmt: skip
    (here / "suite.toml").write_text(SUITE.replace("gb = 4", "gigabytes = 4"))
    with pytest.raises(SettingsError, match=r"got 'gigabytes'; where: suite.toml: slurm"):
        _asked.asked(["suite.toml"], "run", None)


def test_where_there_is_no_slurm(here: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", "")
    found = {"submitit": True}
    real = importlib.util.find_spec
    monkeypatch.setattr(
        _launched.importlib.util, "find_spec", lambda name: found.get(name) if name == "submitit" else real(name)
    )
    argv = ["run", "suite.toml", "--launcher", "slurm", "-q"]
    code, _, err = said(capsys, *argv)
    assert code == 2 and "wanted Slurm's sbatch; got none" in err
    found.clear()
    code, _, err = said(capsys, *argv)
    assert code == 2 and "pip install 'evaltk[slurm]'" in err and not (here / "runs").exists()
