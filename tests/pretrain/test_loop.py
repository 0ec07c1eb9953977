"""The training loop: resumable to the bit, the same with one process or two, files that evaltk reads."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from evaltk import build_backbone, build_head, load_checkpoint
from evaltk.cli import main
from evaltk.errors import EvaltkError
from pretrain import checkpoint as saving
from pretrain import loop, sameness
from pretrain import recipe as config

TINY = [
    "net.arch=vit_patch4_dim32_depth2_heads2_img16",
    "method.num_prototypes=64",
    "method.hidden=32",
    "method.bottleneck=16",
    "views.num_local=2",
    "optim.batch=100",
    "optim.epochs=2",
    "optim.warmup_epochs=1",
    "run.workers=0",
    "run.knn=100",
    "run.log_every=5",
    "run.monitor_every=10",
]
METHODS = {
    "dino": ["method.scoring=linear", "method.centering=logit"],
    "dino_vmf": [],
    "ibot_vmf": ["method.name=ibot"],
    "msn": ["method.name=msn", "method.scoring=cosine"],
}


def recipe(*more: str) -> config.Recipe:
    return config.load("digits_dino_vmf", [*TINY, *more])


def weights(path: Path) -> dict[str, torch.Tensor]:
    tree = torch.load(path, weights_only=True)
    nets = {k: tree[k] for k in ("student", "teacher", "encoder", "target_encoder") if k in tree}
    flat = {f"{net}.{k}": t for net, tensors in nets.items() for k, t in tensors.items()}
    if "prototypes" in tree:
        flat["prototypes"] = tree["prototypes"]
    for loss in ("dino_loss", "ibot_loss"):
        flat |= {f"{loss}.{k}": t for k, t in tree.get(loss, {}).items()}
    return flat


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", METHODS)
def test_trains_and_evaltk_reads_the_file_without_a_guess(name: str, tmp_path: Path) -> None:
    made = recipe(*METHODS[name])
    assert loop.run(made, out=tmp_path, device="cpu") == 0
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pth")
    assert checkpoint.family == "own"
    assert checkpoint.branch == ("target_encoder" if name == "msn" else "teacher")
    assert checkpoint.arch.num_heads == 2 and checkpoint.mean == made.data.mean and checkpoint.epoch == 2
    assert checkpoint.trained_seed == made.run.seed
    assert build_head(checkpoint).prototypes.shape == (64, 16)
    (tokens,) = build_backbone(checkpoint).tokens(torch.randn(2, 3, 16, 16))
    assert tokens.cls.shape == (2, 32)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 5, 10, 15, 20]
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines[:-1])
    assert "knn" in lines[-1] and "unique_prototypes" in lines[-1]


def test_the_teacher_file_also_loads_as_a_plain_dino_checkpoint(tmp_path: Path) -> None:
    loop.run(recipe(*METHODS["dino"]), out=tmp_path, device="cpu")
    tree = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    foreign = tmp_path / "foreign.pth"
    torch.save({k: tree[k] for k in ("student", "teacher", "optimizer", "epoch", "dino_loss")}, foreign)
    ours, theirs = load_checkpoint(tmp_path / "checkpoint.pth"), load_checkpoint(foreign, num_heads=2)
    assert theirs.family == "dino" and theirs.digest == ours.digest
    assert theirs.head is not None and theirs.head.center is not None


@pytest.mark.parametrize("name", METHODS)
def test_a_run_stopped_in_the_middle_resumes_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(*METHODS[name], "net.drop_path=0.2")
    loop.run(made, out=tmp_path / "whole", device="cpu")
    stops = []

    def stopping(*args, **kwargs):  # type: ignore[no-untyped-def]
        record = train_step(*args, **kwargs)
        stops.append(record.step)
        return dataclasses.replace(record, stop=record.step + 1 in (3, 13))  # once in each epoch

    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", stopping)
    codes = [loop.run(made, out=tmp_path / "parts", device="cpu") for _ in range(3)]
    assert codes == [loop.REQUEUE, loop.REQUEUE, 0]
    assert stops == list(range(20))  # no step twice
    assert same(weights(tmp_path / "whole" / "checkpoint.pth"), weights(tmp_path / "parts" / "checkpoint.pth"))


COMMAND = ["digits_dino_vmf", "--device", "cpu", "--set", *TINY, "run.save_minutes=0"]


PRETRAIN = """
import sys
from evaltk import crew, progress
from pretrain import __main__ as main
sys.exit(crew.together(lambda: main.main(progress.configured(sys.argv[1:])), main.said))
"""


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_random_steps_and_resumed_equals_undisturbed_to_the_bit(
    kills: int, forks: Any, tmp_path: Path
) -> None:
    command = [*COMMAND, f"optim.epochs={2 + kills}"]
    assert loop.run(recipe(f"optim.epochs={2 + kills}"), out=tmp_path / "whole", device="cpu") == 0
    parts, steps = tmp_path / "parts", []
    draw = random.Random(kills)
    for _ in range(kills):
        pid = forks.start(PRETRAIN, [*command, "--out", parts])
        before, until = inode(parts / "checkpoint.pth"), time.monotonic() + 60
        while inode(parts / "checkpoint.pth") == before and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.5))  # somewhere in a step or in the writing of a checkpoint
        os.kill(pid, signal.SIGKILL)
        assert forks.ended(pid)[0] == -signal.SIGKILL
        newest = saving.newest(parts)
        assert newest is not None
        steps.append(saving.read(newest)["progress"]["step"])
    code, _, said = forks.ended(forks.start(PRETRAIN, [*command, "--out", parts]))
    assert code == 0, said
    assert steps == sorted(set(steps)) and 0 < steps[-1] < 10 * (2 + kills), steps
    assert same(*(weights(folder / "checkpoint.pth") for folder in (tmp_path / "whole", parts)))


def inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def test_sigterm_writes_a_checkpoint_and_asks_to_be_requeued(forks: Any, tmp_path: Path) -> None:
    pid = forks.start(PRETRAIN, [*COMMAND[:-1], "optim.epochs=200", "--out", tmp_path])
    log, until = tmp_path / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") > 1) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    code, _, said = forks.ended(pid)
    assert code == loop.REQUEUE, said
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=True)["progress"]["step"] > 0


@pytest.mark.parametrize(
    "name", ["dino_vmf", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dino", "ibot_vmf", "msn"))]
)
def test_two_processes_equal_one(name: str, forks: Any, tmp_path: Path) -> None:
    """As torchrun starts them; that itself is tried in test_launchers."""
    command = ["digits_dino_vmf", "--device", "cpu", "--set", *TINY, *METHODS[name]]
    if name == "dino_vmf":  # gradients are exchanged after the second part alone
        command.append("run.accumulate=2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    both = [env | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(2)]
    pids = [forks.start(PRETRAIN, [*command, "--out", tmp_path / "2"], place) for place in both]
    ended = [forks.ended(pid) for pid in pids]
    assert [code for code, *_ in ended] == [0, 0], ended
    loop.run(recipe(*METHODS[name]), out=tmp_path / "1", device="cpu")
    one, two = (weights(tmp_path / count / "checkpoint.pth") for count in ("1", "2"))
    for key in one:
        a, b = (determined(key, w[key]) for w in (one, two))
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
    logs = [[json.loads(x) for x in (tmp_path / c / "log.jsonl").read_text().splitlines()] for c in ("1", "2")]
    for first, second in zip(*logs, strict=True):
        if "loss" in first:
            assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)


def determined(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """What the loss depends on. A parameter without influence has a true gradient of 0: AdamW steps on its rounding.

    A key's bias moves all of a query's logits alike; what is added to the input of MSN's BatchNorm is taken away by it.
    """
    if name.endswith("attn.qkv.bias"):
        return torch.cat(tensor.chunk(3)[::2])
    before_batch_norm = name.endswith(("encoder.norm.bias", "fc.fc1.bias", "fc.fc2.bias", "running_mean"))
    return tensor[:0] if before_batch_norm else tensor


def test_micro_batches_equal_one_batch(tmp_path: Path) -> None:
    for parts in (1, 4):
        loop.run(recipe(f"run.accumulate={parts}", "optim.epochs=1"), out=tmp_path / str(parts), device="cpu")
    one, four = (weights(tmp_path / c / "checkpoint.pth") for c in ("1", "4"))
    for key in one:
        a, b = (determined(key, w[key]) for w in (one, four))
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_a_value_that_is_not_finite_stops_the_run_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiling(batches, state, *args, **kwargs):  # type: ignore[no-untyped-def]
        if state.position.step == 12:
            with torch.no_grad():
                state.network.backbone.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
        return train_step(batches, state, *args, **kwargs)

    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", spoiling)
    with pytest.raises(loop.Diverged, match=r"step 12.*backbone\.blocks\.1\.mlp\.fc1\.weight.*last good checkpoint"):
        loop.run(recipe("run.save_minutes=0"), out=tmp_path, device="cpu")
    saved = weights(tmp_path / "checkpoint.pth")
    assert all(bool(torch.isfinite(t).all()) for t in saved.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optim.epoch=3", "epochs"),
        ("method.scoring=vmff", "linear or cosine or vmf"),
        ("method.num_prototypes=1", "num_prototypes >= 2"),
        ("method.student_temp=0.0", "temperatures > 0"),
        ("optim.batch=5000", "5000 images"),
        ("run.accumulate=3", "divisible"),
        ("views.local_size=7", "multiple of the patch"),
        ("optim.batch=1.5", "int"),
        ("data.source=zip=nothing.zip", "zip"),
        ("net.arch=vit_huge", "vit_"),
    ],
)
def test_settings_that_will_not_do_are_one_clear_line(change: str, said: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["pretrain", "digits_dino_vmf", "--out", str(tmp_path), "--device", "cpu", "--set", *TINY, change]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err and len([line for line in err.splitlines() if "wanted" in line]) == 1


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    loop.run(recipe("optim.epochs=1"), out=tmp_path, device="cpu")
    for change, said in (
        ("method.scoring=linear", "scoring"),
        ("net.arch=vit_patch4_dim64_depth2_heads2_img16", "arch"),
    ):
        with pytest.raises(EvaltkError, match=said):
            loop.run(recipe("optim.epochs=1", change), out=tmp_path, device="cpu")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    loop.run(recipe("run.save_minutes=0"), out=tmp_path, device="cpu")
    good = weights(tmp_path / "checkpoint.pth")
    (tmp_path / "checkpoint.pth").write_bytes((tmp_path / "checkpoint.pth").read_bytes()[:5000])
    loop.run(recipe("run.save_minutes=0"), out=tmp_path, device="cpu")
    assert same(good, weights(tmp_path / "checkpoint.pth"))


def test_a_flipped_bit_of_a_checkpoint_is_noticed_and_it_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop.run(recipe("run.save_minutes=0", "run.keep_every=1"), out=tmp_path, device="cpu")
    good = weights(tmp_path / "checkpoint.pth")
    data = bytearray((tmp_path / "checkpoint.pth").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "checkpoint.pth").write_bytes(data)  # a copy under the epoch's name is the same file
    with pytest.raises(EvaltkError, match=r"a checkpoint as it was written.*checkpoint\.pth"):
        saving.read(tmp_path / "checkpoint.pth")
    loop.run(recipe("run.save_minutes=0", "run.keep_every=1"), out=tmp_path, device="cpu")
    assert "a damaged checkpoint is set aside as checkpoint.damaged.pth" in caplog.text
    assert (tmp_path / "checkpoint.damaged.pth").read_bytes() == data
    assert same(good, weights(tmp_path / "checkpoint.pth"))
    assert same(good, weights(tmp_path / "checkpoint-epoch0002.pth"))


def test_a_torn_log_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = recipe("optim.epochs=1")
    loop.run(made, out=tmp_path, device="cpu")
    log = tmp_path / "log.jsonl"
    lines = log.read_bytes().splitlines()
    log.write_bytes(b"\n".join(lines[:-1]) + b'\n{"step": 1\xff' + b"\0" * 20)
    loop.run(made, out=tmp_path, device="cpu")
    found = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert found == [json.loads(line)["step"] for line in lines]
    assert f"1 damaged lines are taken out of {log}" in caplog.text


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe("optim.epochs=1")
    loop.run(made, out=tmp_path, device="cpu")
    before = sameness.identity
    for change, said in (
        ({"count": 999}, "got 999"),
        ({"digests": ["0"] * 8}, "got others"),
        ({"names": "0"}, "got as many with other names"),
        ({"digests": [None] * 8}, ""),
    ):
        monkeypatch.setattr(
            sameness,
            "identity",
            lambda source, change=change: dataclasses.replace(found := before(source), told={**found.told, **change}),
        )
        if said:
            with pytest.raises(EvaltkError, match=f"images that the run began with; {said}"):
                loop.run(made, out=tmp_path, device="cpu")
        else:  # images that could not be read tell nothing
            loop.run(made, out=tmp_path, device="cpu")
