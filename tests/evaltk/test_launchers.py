"""What launchers leave in the environment is understood, or named in a line; torchrun's exit code is the command's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaltk import launchers, launching
from evaltk.errors import SettingsError

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

import soak

FULL = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "env",
    [
        {}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": " 1 ", "RANK": "0"}, {"RANK": ""},
        {"MASTER_ADDR": "host", "MASTER_PORT": "1", "LOCAL_RANK": "3"}, {"RANK": "0", "LOCAL_RANK": "0"},
    ],
)  # fmt: skip
def test_a_single_process(env: Mapping[str, str]) -> None:
    assert launchers.place(env) is None


def test_one_of_several() -> None:
    place = launchers.place(FULL)
    assert place is not None and (place.rank, place.world, place.local, place.port) == (1, 2, 1, 29500)
    assert not place.agent and not place.hosts
    agent = launchers.place({**FULL, "RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert agent is not None and agent.agent and not agent.hosts
    srun = launchers.place({**FULL, "LOCAL_RANK": "", "SLURM_LOCALID": "5"})
    assert srun is not None and srun.local == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"RANK": "2"}, "a RANK below WORLD_SIZE=2; got RANK=2"),
        ({"RANK": "one"}, "RANK='one'"),
        ({"RANK": ""}, "RANK beside WORLD_SIZE=2; got none"),
        ({"MASTER_ADDR": "", "MASTER_PORT": " "}, "MASTER_ADDR, MASTER_PORT beside WORLD_SIZE=2"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999"),
        ({"MASTER_PORT": "-1"}, "MASTER_PORT='-1'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"WORLD_SIZE": ""}, "got RANK=1, no WORLD_SIZE"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK='x'"),
    ],
)
def test_contradictions_are_named(change: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match="unset WORLD_SIZE and RANK") as raised:
        launchers.place(FULL | change)
    assert said in str(raised.value) and len(str(raised.value)) < 300


def test_what_is_odd_is_said() -> None:
    assert launchers.odd({"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "0"}, gpus=1) == []
    assert launchers.odd({"OMP_NUM_THREADS": "4,2"}, gpus=0) == []
    for threads in ("", "0", "many", "-1"):
        (said,) = launchers.odd({"OMP_NUM_THREADS": threads}, gpus=0)
        assert f"OMP_NUM_THREADS={threads!r}" in said
    for visible in ("", "-1"):
        (said,) = launchers.odd({"CUDA_VISIBLE_DEVICES": visible}, gpus=0)
        assert "leaves no GPU" in said
    (said,) = launchers.odd({"SLURM_STEP_NUM_TASKS": "8"}, gpus=0)
    assert "srun started 8 tasks" in said
    assert launchers.odd({"SLURM_STEP_NUM_TASKS": "8", "WORLD_SIZE": "8"}, gpus=0) == []


def test_the_gpu_of_a_process() -> None:
    second = launchers.place(FULL)
    assert launchers.device_number(None, 4) == 0 and launchers.device_number(second, 4) == 1
    assert launchers.device_number(second, 1) == 0  # srun --gpus-per-task=1
    with pytest.raises(SettingsError, match="a GPU for local process 1; got 1 GPUs"):  # torchrun: both would share it
        launchers.device_number(launchers.place({**FULL, "TORCHELASTIC_USE_AGENT_STORE": "True"}), 1)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["/bin/torchrun", "--nproc-per-node", "2", "-m", "pretrain", "r"], ["pretrain", "r"]),
        (["/x/torch/distributed/run.py", "--standalone", "-m", "evaltk", "run", "x"], ["evaltk", "run", "x"]),
        (["-m", "--nproc-per-node=2", "--module", "pretrain"], ["pretrain"]),
        (["torchrun", "--no-python", "/venv/bin/evaltk", "pretrain"], ["evaltk", "pretrain"]),
        (["torchrun", "train.py", "--name", "pretrain"], None),
        (["torchrun", "-m", "mine.pretrain"], None),
        (["/bin/evaltk", "pretrain"], None),
        ([], None),
    ],
)
def test_which_torchrun_is_ours(argv: list[str], words: list[str] | None) -> None:
    assert launching.launched(argv) == words


@pytest.mark.parametrize(
    ("signalled", "codes", "wanted"),
    [
        (0, [75, 75], 75), (0, [2], 2), (0, [-9, 2], 2), (0, [-9], 137), (signal.SIGINT, [-signal.SIGTERM], 130),
        (signal.SIGUSR1, [-signal.SIGUSR1], 75), (signal.SIGINT, [75, 130], 130),
    ],
)  # fmt: skip
def test_torchrun_exits_as_its_processes(
    signalled: int, codes: list[int], wanted: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    error = ChildFailedError.__new__(ChildFailedError)
    error.failures = {n: SimpleNamespace(exitcode=int(code), timestamp=n) for n, code in enumerate(codes)}  # type: ignore
    agent = launching.Agent(trains=True)
    agent.signal = signalled
    with pytest.raises(SystemExit) as leaving:
        agent.ended(ChildFailedError, error, None)
    assert leaving.value.code == wanted
    said = capsys.readouterr().err
    assert ("process 0 killed by SIGKILL, most often for lack of memory" in said) == (wanted == 137)


def test_a_signal_reaches_all_processes_and_torchrun_exits_with_75(tmp_path: Path) -> None:
    """The real torchrun, with processes that import little."""
    (tmp_path / "pretrain.py").write_text(PROCESS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(soak.entry_points(tmp_path / "first")), *sys.path]))
    command = [sys.executable, *torchrun, "-m", "pretrain"]
    process = subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert {process.stdout.readline(), process.stdout.readline()} == {"ready\n"}
    process.send_signal(signal.SIGUSR1)  # to torchrun alone
    out, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    assert out.split() == ["stopped", "stopped"] and "Traceback" not in err


PROCESS = """
import os, signal, sys
def stop(number, frame):
    os.write(1, b"stopped\\n")  # in one write, beside another process
    sys.exit(75)
signal.signal(signal.SIGUSR1, stop)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
