"""Suite files: what they stand for, what is wrong with them, and that a cell that fails stops no other."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from evaltk import cli, load_checkpoint, results
from evaltk.cli import _asked
from evaltk.data.images import Split
from evaltk.errors import EvaltkError
from evaltk.running import failures, runner

NET = "vit_patch4_dim32_depth2_heads2_img16"
SUITE = """
version = 1
checkpoints = ["nets/*.pth", "pixels:8"]
out = "runs"
cache = "cache"
num_heads = 2
limit = 60

[[data]]
name = "digits"

[[data]]
name = "b:digits"

[[protocols]]
name = "knn"
k = [1, 5]
choose = 20

[[protocols]]
name = "knn"
k = [3]
choose = 0

[[protocols]]
name = "prototypes"

[[matrix.except]]
checkpoint = "net*"
data = "b"

[[matrix.except]]
checkpoint = "pixels*"
protocol = "prototypes"
data = ["b"]
"""


def save_net(path: Path, seed: int = 0) -> Path:
    weights = load_checkpoint(f"random:{NET}@{seed}").weights
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"teacher": {f"backbone.{k}": v for k, v in weights.items()}, "epoch": 3}, path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two nets, to work in."""
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save_net(tmp_path / "nets/net10.pth")
    save_net(tmp_path / "nets/net9.pth", seed=1)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command in this process."""
    try:
        code = cli.main([str(a) for a in argv])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return (code, *capsys.readouterr())


def cells(text: str, here: Path, *flags: str) -> list[tuple[str, str, str]]:
    (here / "suite.toml").write_text(text)
    asked = _asked.asked(["suite.toml", *flags], "run", None)
    return [(c.job.name, c.job.protocol, c.job.dataset.name) for c in _asked.cells_of(asked)]


def test_the_cells_of_a_suite(here: Path) -> None:
    nets = [(name, protocol, "digits") for name in ("net9", "net10") for protocol in ("knn", "prototypes", "knn")]
    pixels = [("pixels:8", protocol, "digits") for protocol in ("knn", "prototypes", "knn")]
    assert cells(SUITE, here) == [*nets, *pixels, ("pixels:8", "knn", "b"), ("pixels:8", "knn", "b")]
    only = SUITE + '[[matrix.only]]\ncheckpoint = ["net9"]\nprotocol = "k*"\n'
    assert cells(only, here) == [("net9", "knn", "digits")] * 2
    asked = _asked.asked(["suite.toml", "--seed", "4", "--limit", "20", "--out", "there"], "run", None)
    assert {(c.plan.seed, c.plan.limit, str(c.plan.out)) for c in _asked.cells_of(asked)} == {(4, 20, "there")}
    assert asked.suite.plans[0].read.num_heads == 2 and asked.suite.plans[0].protocols["knn"].k == (1, 5)


def test_what_is_said_of_one_entry(here: Path) -> None:
    text = SUITE.partition("[[matrix")[0].replace(
        '"pixels:8"]', '{path = "nets/net9.pth", norm-eps = 1e-5, mean = [0.5, 0.5, 0.25]}]'
    )
    cells(text, here)
    plans = _asked.asked(["suite.toml"], "run", None).suite.plans
    reads = {plan.checkpoints: (plan.read.num_heads, plan.read.norm_eps, plan.read.mean) for plan in plans}
    assert reads == {
        ("nets/net9.pth", "nets/net10.pth"): (2, None, None),
        ("nets/net9.pth",): (2, 1e-5, (0.5, 0.5, 0.25)),
    }


def test_a_cell_asked_for_twice_is_run_once(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "evaltk")
    text = SUITE.replace("k = [3]\nchoose = 0", "k = [1, 5]\nchoose = 20").replace('"pixels:8"', '"nets/net9.pth"')
    text = text.partition('[[matrix.except]]\ncheckpoint = "pixels*"')[0]
    assert cells(text, here) == [(n, p, "digits") for n in ("net9", "net10") for p in ("knn", "prototypes")]
    assert "2 cells are asked for twice and run once" in caplog.text


BAD = {
    'chekpoints = ["pixels:8"]': "got 'chekpoints'; where: suite.toml: top level; do: did you mean 'checkpoints' or",
    "version = 2": "wanted version 1 of the format; got 2; where: suite.toml: version; do: install a newer evaltk",
    'version = "x"': "do: version = 1",
    "limit = [1": "wanted a suite file in TOML",
    "limit = " + "[" * 100_000: "wanted a suite file in TOML; got nested too deep",
    'protocols = [{name = "knn", temperature = [inf]}]': "wanted temperatures > 0, for knn; got (inf,)",
    'out = "a\\u0000b"': "wanted a value that a flag can have; got out = 'a\\x00b'",
    "version = true": "got True; where: suite.toml: version; do: version = 1",
    'checkpoints = ["nets/*.pt"]': "wanted a pattern that some checkpoint matches; got no match; where: nets/*.pt",
    "checkpoints = []": "wanted at least one of checkpoints; got none",
    "checkpoints = [3]": "got 3; where: suite.toml: checkpoints",
    'checkpoints = [{path = "pixels:8", num_head = 3}]': "got 'num_head'; where: suite.toml: checkpoints, pixels:8",
    'checkpoints = [{path = "pixels:8", num_heads = "x"}]': "wanted values that fit pixels:8",
    'checkpoints = [{path = "pixels:8", mean = [[1]]}]': "wanted a value that a flag can have; got mean = [1]",
    'protocols = ["kn"]': "wanted a protocol; got 'kn'; where: suite.toml: protocols; do: did you mean 'knn'",
    'protocols = [{name = "knn", kk = 3}]': "got 'kk'; where: suite.toml: protocols, knn; do: did you mean 'k'?",
    'data = ["digit"]': "did you mean 'digits'",
    'data = [{name = "digits", split = 0.5}]': "for --split; got digits; where: suite.toml: data, digits",
    'matrix.only = [{checkpoint = "pixel:8"}]': "got 'pixel:8'; where: suite.toml: matrix.only; do: did you mean",
    'matrix.only = [{check = "x"}]': "got 'check'; where: suite.toml: matrix.only",
    'matrix.except = [{data = "*"}]': "wanted at least one cell; got none",
    "matrix.except = [{}]": "got an empty rule",
    'matrix.without = [{data = "*"}]': "got 'without'",
    "limit = true": "where: suite.toml: top level",
    "split = 0.5": "for --split; got digits",
    'data = ["x:imagefolder=a", "x:imagefolder=b"]': "got two different datasets called 'x'",
}  # fmt: skip


@pytest.mark.parametrize("line", [*BAD], ids=range(len(BAD)))
def test_what_is_wrong_with_a_file_is_said_before_any_work(line: str, here: Path, image_tree: Any) -> None:
    for name in ("a", "b") if "imagefolder" in line else ():
        image_tree({"train/one": 2, "train/two": 1 + len(name), "test/one": 1, "test/two": ord(name) - 96}, name=name)
    base = {"checkpoints": 'checkpoints = ["pixels:8"]', "data": 'data = ["digits"]'}
    lines = [text for key, text in base.items() if not line.startswith(f"{key} =") and "chek" not in line]
    with pytest.raises(EvaltkError) as error:
        cells("\n".join([line, *lines]), here)
    assert BAD[line] in str(error.value), str(error.value)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["none.toml"], "wanted a suite file; got no such file"),
        (["suite.toml", "pixels:8"], "wanted one suite file alone"),
        (["suite.toml", "--protocols", "linear"], "got --protocols"),
        (["suite.toml", "--data", "digits"], "got --data"),
        (["suite.toml", "--knn.k", "7"], "got --knn"),
        (["suite.toml", "--every-checkpoint"], "wanted a training's folder"),
    ],
)
def test_flags_that_do_not_go_with_a_suite(argv: list[str], says: str, here: Path) -> None:
    (here / "suite.toml").write_text(SUITE)
    with pytest.raises(EvaltkError, match=says):
        _asked.asked(argv, "run", None)


def test_a_cell_that_fails_stops_no_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "suite.toml").write_text(SUITE)
    code, out, err = said(capsys, "run", "suite.toml", "-q")
    assert code == 2 and "k-NN" in out
    assert err.splitlines()[-1] == "evaltk: 11 results: 8 new, 0 there before, 3 failed"
    assert [line.partition(": ")[2].partition(": wanted")[0] for line in err.splitlines()[:-1]] == [
        f"failed: prototypes of {name} on digits" for name in ("net9", "net10", "pixels:8")
    ]
    records = [failure for _, failure in failures.find(here / "runs")]
    assert {(r.checkpoint, r.protocol, r.dataset, r.bug) for r in records} == {
        (name, "prototypes", "digits", False) for name in ("net9", "net10", "pixels:8")
    }
    assert not [*(here / "runs").rglob("*claim*")]
    code, _, err = said(capsys, "run", "suite.toml", "-q")
    assert code == 2 and err.splitlines()[-1] == "evaltk: 11 results: 0 new, 8 there before, 3 failed"
    code, _, err = said(capsys, "run", "suite.toml", "-q", "--fail-fast")
    assert code == 2 and err.splitlines()[0].startswith("evaltk: 11 results:") and "projection head" in err


def test_a_failure_is_forgotten_once_the_result_is_there(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from protocols import knn

    argv = [
        "run",
        "pixels:8",
        "pixels:6",
        "--data",
        "digits",
        "--knn.k",
        "5",
        "--knn.choose",
        "0",
        "--limit",
        "60",
        "-q",
    ]
    real = knn.PROTOCOL.run

    def broken(bench: Any, dataset: Any, settings: Any) -> Any:
        if bench.checkpoint.arch.img_size == 8:
            raise ZeroDivisionError("by zero\nin two lines")
        return real(bench, dataset, settings)

    monkeypatch.setattr(knn, "run", broken)
    object.__setattr__(knn.PROTOCOL, "run", broken)
    try:
        code, out, err = said(capsys, *argv)
    finally:
        object.__setattr__(knn.PROTOCOL, "run", real)
    assert code == 1 and "pixels:6" in out
    assert "failed: knn of pixels:8 on digits: ZeroDivisionError: by zero" in err and "Traceback" in err
    ((path, failure),) = failures.find(here / "runs")
    assert failure.bug and "ZeroDivisionError" in failure.trace and json.loads(path.read_text())["message"]
    assert said(capsys, *argv)[0] == 0
    assert not [*failures.find(here / "runs")] and len([*results.find(here / "runs")]) == 2


def test_a_checkpoint_that_vanishes(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    (here / "suite.toml").write_text(SUITE)
    real = runner._Runner.net

    def net(self: Any, mine: Any) -> Any:
        if mine[0].job.name == "net9":
            (here / "nets/net9.pth").unlink()
        return real(self, mine)

    monkeypatch.setattr(runner._Runner, "net", net)
    code, _, err = said(capsys, "run", "suite.toml", "-q")
    assert code == 2 and err.splitlines()[-1] == "evaltk: 11 results: 6 new, 0 there before, 5 failed"
    assert err.count("got no such file") == 3


def test_nothing_is_done_where_the_disk_is_full(here: Path, capsys: Any, monkeypatch: Any) -> None:
    import errno

    (here / "suite.toml").write_text(SUITE)

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr("evaltk.files.os.fsync", full)
    code, _, err = said(capsys, "run", "suite.toml", "-q")
    assert code == 2 and "no space left on the disk" in err.splitlines()[-1]
    assert err.splitlines()[0] == "evaltk: 11 results: 0 new, 0 there before, 11 left"


def test_an_interrupt_says_how_far_it_came(here: Path, capsys: Any, monkeypatch: Any) -> None:
    (here / "suite.toml").write_text(SUITE)
    real, seen = results.write, []

    def write(path: Path, *given: Any) -> None:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(path)
        real(path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(results, "write", write)
        code, _, err = said(capsys, "run", "suite.toml", "-q")
    assert code == 130 and "11 results: 2 new, 0 there before, 1 failed, 8 left" in err
    assert not [*(here / "runs").rglob("*claim*")]
    assert said(capsys, "run", "suite.toml", "-q")[2].splitlines()[-1].startswith("evaltk: 11 results: 6 new, 2 there")


def test_plan_of_a_suite(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "suite.toml").write_text(SUITE)
    code, out, _ = said(capsys, "plan", "suite.toml", "--json", "-q")
    found = json.loads(out)
    assert code == 0 and (found["jobs"], found["to_do"]) == (11, 11)
    assert [(pair["checkpoint"], pair["dataset"], len(pair["jobs"])) for pair in found["pairs"]] == [
        ("net9", "digits", 3), ("net10", "digits", 3), ("pixels:8", "digits", 3), ("pixels:8", "b", 2),
    ]  # fmt: skip
    assert all("prototypes would fail" in pair["notes"][0] for pair in found["pairs"][:3])
    assert not (here / "runs").exists()


def test_a_decoding_process_that_is_killed_costs_the_results_of_its_images(
    here: Path, capsys: Any, monkeypatch: Any, image_tree: Any
) -> None:
    root = image_tree({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    argv = ["run", "pixels:8", "--protocols", "knn", "--knn.k", "3", "--knn.choose", "0", "--limit", "60", "-q"]
    argv += ["--data", f"own:imagefolder={root}", "digits", "--workers", "1"]
    parent, real = os.getpid(), Split.open

    def killed(split: Split, index: int) -> Any:
        if os.getpid() != parent and split.dataset == "own":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(split, index)

    with monkeypatch.context() as patch:
        patch.setattr(Split, "open", killed)
        code, out, err = said(capsys, *argv)
    assert code == 2 and "digits" in out and "failed: knn of pixels:8 on own: " in err
    assert err.splitlines()[-1] == "evaltk: 2 results: 1 new, 0 there before, 1 failed"
    code, out, _ = said(capsys, *argv)
    assert code == 0 and "own" in out
