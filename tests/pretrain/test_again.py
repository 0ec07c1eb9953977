"""The same command again: it goes on from the newest whole checkpoint, or says in one line why not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from noise_images import write_image

from evaltk import files
from evaltk.errors import EvaltkError, StorageError
from pretrain import background, checkpoint, loop, sameness
from pretrain import recipe as recipes

SMALL = [
    "net.arch=vit_patch8_dim24_depth1_heads3_img16", "method.num_prototypes=32", "method.hidden=16",
    "method.bottleneck=8", "views.num_local=1", "optim.batch=400", "optim.epochs=3", "optim.warmup_epochs=1",
    "run.workers=0", "run.knn=0", "run.log_every=1", "run.monitor_every=100", "run.keep_every=1",
    "run.save_minutes=1000", "run.disk_minutes=0",
]  # fmt: skip


def recipe(*more: str) -> recipes.Recipe:
    return recipes.load("digits_dino_vmf", ["data.source=digits", *SMALL, *more])


def train(folder: Path, *more: str, resume: str = "auto") -> int:
    return loop.run(recipe(*more), out=folder, device="cpu", resume=resume)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert train(folder) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run: checkpoint.pth, checkpoint.before.pth and three kept epochs."""
    return shutil.copytree(finished, tmp_path / "run")


def step(path: Path) -> int:
    return checkpoint.read(path)["progress"]["step"]


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def changed(path: Path, **config: Any) -> None:
    """Rewrite entries of a checkpoint's config."""
    tree = torch.load(path, weights_only=True)
    tree["config"] = json.dumps(json.loads(tree["config"]) | config)
    torch.save(tree, path)


def test_every_epoch_is_kept_and_the_last_n(run: Path, tmp_path: Path) -> None:
    names = ["checkpoint-epoch0001.pth", "checkpoint-epoch0002.pth", "checkpoint-epoch0003.pth"]
    last = ["checkpoint.before.pth", "checkpoint.pth"]
    assert sorted(p.name for p in run.glob("*.pth")) == [*names, *last]
    assert [step(run / name) for name in names] == [2, 4, 6]
    assert [step(run / name) for name in last] == [4, 6]
    for number in range(1, 6):
        checkpoint.write(tmp_path / "n", {"number": torch.tensor(number)}, last=4)
    kept = {p.name: int(torch.load(p, weights_only=True)["number"]) for p in (tmp_path / "n").iterdir()}
    ages = {"checkpoint.pth": 5, "checkpoint.before.pth": 4, "checkpoint.before2.pth": 3, "checkpoint.before3.pth": 2}
    assert kept == ages


def test_the_newest_whole_checkpoint_is_taken_and_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoil(run / "checkpoint.pth")
    (run / "checkpoint.before.pth").unlink()
    assert checkpoint.newest(run) == run / "checkpoint-epoch0003.pth"
    assert "checkpoint-epoch0003.pth, of step 6" in caplog.text
    spoil(run / "checkpoint-epoch0003.pth")
    assert checkpoint.newest(run) == run / "checkpoint-epoch0002.pth"
    assert (run / "checkpoint-epoch0003.pth").exists()


def test_a_run_is_never_begun_anew_where_one_has_been(run: Path) -> None:
    for path in run.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:-1000])
    for _ in range(2):  # the second time the damaged ones have been set aside
        with pytest.raises(EvaltkError, match="wanted a whole checkpoint to go on from; got damaged ones only"):
            train(run)
    assert train(run, resume="never") == 0


def test_a_checkpoint_of_another_version_is_not_set_aside(run: Path) -> None:
    tree = torch.load(run / "checkpoint.pth", weights_only=True)
    torch.save(tree | {"evaltk_format": 99}, run / "checkpoint.pth")
    with pytest.raises(EvaltkError, match="format 1; got 99"):
        train(run)
    assert not (run / "checkpoint.damaged.pth").exists()


def test_recipe_keys_of_other_versions(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = dataclasses.asdict(recipe())
    earlier = {section: dict(table) if isinstance(table, dict) else table for section, table in asked.items()}
    del earlier["optim"]["stretch"], earlier["run"]["keep_last"], earlier["method"]["center_momentum"]
    changed(run / "checkpoint.pth", recipe=earlier)
    assert train(run) == 0
    with pytest.raises(EvaltkError, match=r"optim\.stretch was 1\.0, is 1\.25"):
        train(run, "optim.stretch=1.25")
    changed(run / "checkpoint.pth", recipe=asked | {"optim": asked["optim"] | {"nesterov": True}})
    with pytest.raises(EvaltkError, match=r"optim\.nesterov was True, is unknown to this version"):
        train(run)


def test_what_may_and_what_may_not_change(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EvaltkError, match=r"optim\.epochs was 3, is 5.*finish with the old number") as raised:
        train(run, "optim.epochs=5")
    assert len(raised.value.brief()) < 300
    with pytest.raises(EvaltkError, match=r"optim\.batch was 400, is 200"):
        train(run, "optim.batch=200")
    changed(run / "checkpoint.pth", surroundings={"processes": 8, "device": "cuda", "torch": "2.0", "processor": "x"})
    assert train(run, "run.workers=1", "run.keep_last=3", "run.accumulate=1") == 0
    assert "not to the same bits: it had processes 8, now 1; device cuda, now cpu; torch 2.0, now" in caplog.text


@pytest.mark.parametrize("line", [b"[1, 2]", b'{"step": 1e400}', b'{"step": null}', b"\xff\0" * 9, b"7", b"{" * 9999])
def test_an_odd_line_of_the_log_is_taken_out(run: Path, line: bytes) -> None:
    whole = (run / "log.jsonl").read_bytes()
    (run / "log.jsonl").write_bytes(line + b"\n" + whole + line)
    assert train(run) == 0
    steps = [json.loads(found)["step"] for found in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(7))


def test_images_that_were_changed(tmp_path: Path) -> None:
    for number in range(30):
        write_image(tmp_path / f"images/a/{number:02d}.png")
    small = (f"data.source=folder={tmp_path / 'images'}", "optim.batch=15", "optim.epochs=1")
    assert train(tmp_path / "out", *small) == 0
    write_image(tmp_path / "images/a/99.png")
    with pytest.raises(EvaltkError, match="the 30 images that the run began with; got 31"):
        train(tmp_path / "out", *small)
    (tmp_path / "images/a/99.png").unlink()
    (tmp_path / "images/a/05.png").rename(tmp_path / "images/a/05b.png")
    with pytest.raises(EvaltkError, match="got as many with other names"):
        train(tmp_path / "out", *small)
    (tmp_path / "images/a/05b.png").unlink()
    write_image(tmp_path / "images/a/05.png", size=(24, 16))  # not one of those whose pixels are looked at
    with pytest.raises(EvaltkError, match="got some of the same name with other content"):
        train(tmp_path / "out", *small)


def test_archives_tell_their_contents(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"images/{number}.png")
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "images")
    one = sameness.identity(loop.sources.ZipSource(tmp_path / "a.zip"))
    write_image(tmp_path / "images/1.png", size=(9, 9))
    shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path / "images")
    two = sameness.identity(loop.sources.ZipSource(tmp_path / "b.zip"))
    assert one.told["names"] == two.told["names"] and (one.files != two.files).tolist() == [False, True, False]


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level("INFO", logger="evaltk")
    monkeypatch.setattr(background, "RETRY", 0.01)
    tries = []

    def job() -> None:
        tries.append(1)
        with files.storage_errors(tmp_path):
            if len(tries) < 4:
                raise OSError(28, "no space")

    background.patiently(job, 1, "it")
    assert len(tries) == 4
    assert [r.message.partition(":")[0] for r in caplog.records] == ["no space left for it", "written now"]
    tries.clear()
    with pytest.raises(StorageError, match="no space left"):
        background.patiently(job, 0, "it")
    assert len(tries) == 1


def test_a_write_in_the_background(caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time; an error surfaces in the main thread; a slow disk is said, and waited for up to a bound."""
    import threading

    monkeypatch.setattr(background, "SLOW", 0.0)
    monkeypatch.setattr(background, "LEAST", 0.1)
    gate, done = threading.Event(), []
    writer = background.Writer(0, "it")
    writer.start(lambda: gate.wait(60) and done.append(1))
    assert writer.busy()
    with pytest.raises(StorageError, match="a disk that is slower"):
        writer.start(lambda: done.append(2))
    assert "training waits for the disk" in caplog.text
    gate.set()
    monkeypatch.setattr(background, "LEAST", 60.0)
    writer.start(lambda: done.append(2))
    writer.wait()
    assert done == [1, 2]

    def fail() -> None:
        raise StorageError(wanted="a", got="b")

    writer.start(fail)
    with pytest.raises(StorageError):
        writer.wait()
    assert not writer.busy()


def test_a_checkpoint_that_reads_back_otherwise_is_not_taken(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "checkpoint.pth").read_bytes()
    monkeypatch.setattr(checkpoint.checksums, "forget", spoil)
    with pytest.raises(StorageError, match="wanted a disk that keeps what is written"):
        checkpoint.write(run, {"x": torch.arange(1000)})
    assert (run / "checkpoint.pth").read_bytes() == before
