"""Every checkpoint of a training, also while it goes on; and scores beside its log."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from evaltk import cli, load_checkpoint
from evaltk.cli import _scores_log, _watched
from evaltk.errors import EvaltkError
from evaltk.running import chosen

NET = "vit_patch4_dim32_depth2_heads2_img16"
FLAGS = ["--data", "digits", "--limit", "60", "--knn.k", "5", "--knn.choose", "0", "--num-heads", "2", "-q"]


def save(path: Path, epoch: int, seed: int | None = None) -> None:
    weights = load_checkpoint(f"random:{NET}@{epoch if seed is None else seed}").weights
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"teacher": {f"backbone.{k}": v for k, v in weights.items()}, "epoch": epoch}, path)


def logged(run: Path, *, finished: bool = False) -> None:
    lines = [{"step": 10 * n, "epoch": n, "loss": 1.0, "steps": 30, "epochs": 3, "time": 1.0} for n in (1, 2)]
    end = [{"step": 30, "epoch": 3, "knn": 0.5, "time": 2.0}] if finished else []
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (*lines, *end)))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that has kept two checkpoints, and the last one beside."""
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "train" / "mine"
    for epoch in (10, 9):
        save(folder / f"checkpoint-epoch{epoch:04d}.pth", epoch)
    shutil.copy(folder / "checkpoint-epoch0010.pth", folder / "checkpoint.pth")
    save(folder / "checkpoint.before.pth", 9)
    logged(folder)
    return folder


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command in this process."""
    code = cli.main([str(a) for a in argv])
    return (code, *capsys.readouterr())


def names(words: list[str], **given: bool) -> list[str]:
    return [Path(word).name for word in chosen.expanded(words, **given)]


def test_checkpoints_of_a_training(run: Path) -> None:
    kept = ["checkpoint-epoch0009.pth", "checkpoint-epoch0010.pth"]
    assert names([str(run)]) == kept[1:]  # which has the bytes of the last one
    assert names([str(run)], every=True) == kept
    save(run / "checkpoint.pth", 11)
    assert names([str(run), "pixels:8"], every=True) == [*kept, "checkpoint.pth", "pixels:8"]
    assert names([str(run)], every=True, last=False) == kept
    (run / "checkpoint.pth").unlink()
    assert names([str(run)]) == ["checkpoint.before.pth"]
    assert names([f"{run.parent}/*"]) == ["checkpoint.before.pth"]
    for path in run.glob("*.pth"):
        path.unlink()
    with pytest.raises(EvaltkError, match="wanted a training with a checkpoint; got none yet"):
        chosen.expanded([str(run)])


def test_the_metric_against_the_epoch(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "run", run, "--every-checkpoint", *FLAGS)
    table = out[out.index("### Trajectory: mine") :].splitlines()
    assert code == 0 and [line.split("|")[1].strip() for line in table[4:6]] == ["epoch 9", "epoch 10"]
    assert all("±" in line for line in table[4:6])
    assert said(capsys, "table", "--layout", "trajectory")[1].splitlines()[4:6] == table[4:6]


def test_a_training_is_watched_to_its_end(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(_watched, "POLL", 0.02)
    for path in run.glob("*.pth"):
        path.unlink()  # nothing is kept yet

    def train() -> None:
        time.sleep(0.2)
        for epoch in (1, 2):
            save(run / f"checkpoint-epoch{epoch:04d}.pth", epoch)
        save(run / "checkpoint.pth", 2, seed=7)  # replaced all the time: not evaluated before the end
        deadline = time.monotonic() + 60
        while written() < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        save(run / "checkpoint.pth", 3)
        logged(run, finished=True)

    def written() -> int:
        try:
            return len([*Path("runs").rglob("*.json")])
        except OSError:  # a claim's folder that went between listing and look
            return 0

    training = threading.Thread(target=train)
    training.start()
    code, out, err = said(capsys, "run", run, "--watch", *FLAGS)
    training.join()
    table = out[out.index("### Trajectory: mine") :].splitlines()
    assert code == 0 and not err
    assert [line.split("|")[1].strip() for line in table[4:7]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert len([*Path("runs").rglob("knn*.json")]) == 3


def test_only_trainings_are_watched(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--watch", "--every-checkpoint"):
        code, _, err = said(capsys, "run", "pixels:8", flag, *FLAGS)
        assert code == 2 and "wanted a training's folder; got pixels:8" in err


class Fake:
    """As much of TensorBoard's writer as is used."""

    seen: list[tuple[str, str, float, int]]

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).name

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.seen.append((self.folder, name, value, step))

    def flush(self) -> None: ...
    def close(self) -> None: ...


def test_scores_in_tensorboard(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any, caplog: Any) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    Fake.seen = []
    assert said(capsys, "run", run, "--every-checkpoint", "--log", "tensorboard", *FLAGS)[0] == 0
    assert {(folder, step) for folder, _, _, step in Fake.seen} == {("mine", 9), ("mine", 10)}
    assert {name for _, name, _, _ in Fake.seen} >= {"knn/digits-test/top1(k=5,temperature=0.07)"}
    monkeypatch.setattr(Fake, "add_scalar", None)
    code, out, err = said(capsys, "run", run, "--every-checkpoint", "--log", "tensorboard", *FLAGS[:-1])
    assert code == 0 and err.count("tensorboard fails and is left out") == 1 and "epoch 10" in out


def test_scores_in_wandb(tmp_path: Path, monkeypatch: Any, run: Path, capsys: Any) -> None:
    told: list[Any] = []

    class Run:
        define_metric = log = finish = lambda self, *given, **named: told.append(given)

    module = types.ModuleType("wandb")
    module.Settings = module.init = lambda **given: Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert said(capsys, "run", run, "--every-checkpoint", "--log", "wandb", *FLAGS)[0] == 0
    assert [given[0]["epoch"] for given in told if given and isinstance(given[0], dict)] == [9, 10]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EvaltkError, match=r"wanted wandb.*pip install 'evaltk\[wandb\]'"):
        _scores_log.begin("wandb", tmp_path)
