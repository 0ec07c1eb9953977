"""The command line: quick where nothing is computed, one line for what the user can mend, tables on stdout."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import said

import protocols
from evaltk import __version__, cli, machine, results, streams
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _flags
from evaltk.errors import SettingsError
from evaltk.types import DeviationKind

Build = Callable[..., Path]
SMALL = ["--knn.k", "1", "5", "--knn.choose", "20"]


def test_without_and_with_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys)
    assert code == 2 and out.startswith("usage: evaltk COMMAND") and not err
    assert max(map(len, out.splitlines())) <= 80
    for word in ("-h", "--help", "help"):
        code, out, err = said(capsys, word)
        assert code == 0 and not err
        assert all(f"\n  {name}" in out for name in ("run", "ls", "table", "inspect", "demo", "cache", "fetch"))
    assert said(capsys, "help", "run") == said(capsys, "run", "--help")
    code, out, err = said(capsys, "tabel")
    assert code == 2 and not out and err.count("\n") == 1
    assert err.startswith("evaltk: wanted a command; got 'tabel'; do: did you mean 'table'?")
    assert said(capsys, "--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")  # so that it is restored
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert cli.main(["no-such-command"]) == 2
    capsys.readouterr()
    assert os.environ["OMP_WAIT_POLICY"] == after


def test_run_writes_skips_and_prints_a_table(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "pixels:8", "--data", "digits", *SMALL, *folders]
    code, out, err = said(capsys, *command)
    assert code == 0 and "wrote" in err
    lines = out.splitlines()
    assert lines[0] == "### Results on digits test, n = 797"
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["model", "k-NN chosen k", "px"]
    assert "evaltk table --layout all --runs" in err and "evaltk report --runs" in err
    code, again, err = said(capsys, *command)
    assert code == 0 and again == out and "done before:" in err
    code, _, _ = said(capsys, *command, "--knn.temperature", "0.2")
    assert code == 0 and len(list(results.find(tmp_path / "runs"))) == 2
    code, third, err = said(capsys, *command, "--again")
    assert code == 0 and third == out and "wrote" in err
    assert said(capsys, "table", "--runs", str(tmp_path / "runs"))[0] == 0
    assert len(list(results.find(tmp_path / "runs"))) == 2


def test_json_is_for_machines(tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "pixels:8", "pixels:4", "--data", "digits", *SMALL, *folders, "--json"]
    code, out, _ = said(capsys, *command)
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [f["checkpoint"]["name"] for f in found] == ["pixels:8", "pixels:4"]
    assert [f["skipped"] for f in found] == [False, False] and all(Path(f["path"]).exists() for f in found)
    assert {s["metric"] for s in found[0]["scores"]} == {
        "top1", "top5", "top1_best_k", "top1_chosen_k", "ece_best_k", "ece_chosen_k"
    }  # fmt: skip


def test_flags_reach_the_plan() -> None:
    import tyro

    argv = "a.pth b.pth --protocols knn --data digits --knn.k 3 4 --knn.temperature 0.1 0.2 --knn.backend faiss"
    argv += " --resize 40 --crop 36 --interpolation bilinear --precision bf16 --position timm --seed 7 --workers 3"
    argv += " --batch-size 12 --skip-bad-images 2 --device cuda:1 --num-heads 4 --norm-eps 1e-5 --mean .1 .2 .3"
    plan = _flags.plan_of(tyro.cli(_flags.options_type(), args=argv.split()))
    settings = plan.protocols["knn"]
    assert (settings.k, settings.temperature, settings.backend) == ((3, 4), (0.1, 0.2), "faiss")
    assert (plan.images.resize, plan.images.crop, plan.images.interpolation) == (40, 36, "bilinear")
    assert plan.read == ReadOptions(num_heads=4, norm_eps=1e-5, mean=(0.1, 0.2, 0.3))
    assert (plan.precision, plan.position, plan.seed, plan.device) == ("bf16", "timm", 7, "cuda:1")
    assert (plan.batch_size, plan.workers, plan.skip_bad_images) == (12, 3, 2)
    auto = _flags.plan_of(tyro.cli(_flags.options_type(), args=["a.pth", "--data", "digits"]))
    assert auto.batch_size is None and auto.read == ReadOptions() and auto.checkpoints == ("a.pth",)


ERRORS = {
    "no checkpoints": (["run", "--data", "digits"], "wanted checkpoints to evaluate"),
    "no data": (["run", "pixels:8"], "wanted datasets to evaluate on"),
    "protocol": (["run", "pixels:8", "--data", "digits", "--protocols", "kn"], "did you mean 'knn'?"),
    "dataset": (["run", "pixels:8", "--data", "digit"], "did you mean 'digits'"),
    "data path": (["run", "pixels:8", "--data", "imagenet"], "got no path; where: --data; do: --data imagenet=PATH"),
    "file": (["run", "no/such.pth", "--data", "digits"], "where: no/such.pth"),
    "catalogue": (["run", "dino_vits61", "--data", "digits"], "did you mean 'dino_vits16'?"),
    "fetch first": (["run", "dino_vits16", "--data", "digits", "--offline"], "run: evaltk fetch dino_vits16"),
    "k": (["run", "pixels:8", "--data", "digits", "--knn.k", "2000"], "k <= 1000"),
    "k of zero": (["run", "pixels:8", "--data", "digits", "--knn.k", "0"], "--knn.k"),
    "crop": (["run", "pixels:8", "--data", "digits", "--crop", "9", "--resize", "8"], "1 <= crop <= resize"),
    "device": (["run", "pixels:8", "--data", "digits", "--device", "gpu"], "where: --device; do: --device auto"),
    "limit": (["run", "pixels:8", "--data", "digits", "--limit", "0"], "where: --limit; do: --limit 100"),
    "limit and k": (
        ["run", "pixels:8", "--data", "digits", "--limit", "60", "--knn.k", "200"],
        "got k = 200; where: --knn.k, --limit; do: --knn.k 1, or --limit 200 or more",
    ),
    "quiet and verbose": (["run", "pixels:8", "--quiet", "-q", "--data", "digit"], "did you mean 'digits'"),
    "protocol of help": (["run", "--protocols", "kn", "--help"], "did you mean 'knn'?"),
    "batch": (["run", "pixels:8", "--data", "digits", "--batch-size", "0"], "where: --batch-size"),
    "workers": (["run", "pixels:8", "--data", "digits", "--workers", "-1"], "where: --workers"),
    "skipping": (["run", "pixels:8", "--data", "digits", "--skip-bad-images", "-1"], "where: --skip-bad-images"),
    "no results": (["table", "--runs", "/no/such/folder"], "got no such folder"),
    "layout": (["table", "--runs", ".", "--layout", "kn"], "did you mean 'knn'?"),
    "prune what": (["cache", "prune"], "name entries, --older-than or --all"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_the_user_can_mend_is_one_line(
    name: str, folders: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv, says = ERRORS[name]
    code, out, err = said(capsys, *argv, *(folders if argv[0] == "run" else []))
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("evaltk: wanted "), err
    assert says in err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "pixels:8", "--data", "digits", "--precision", "fp16"],
        ["run", "pixels:8", "--data", "digits", "--knn.k", "ten"],
        ["run", "pixels:8", "--nothing"],
        ["table", "--format", "word"],
        ["ls", "protocol"],
        ["cache", "clear"],
    ],
)
def test_flags_that_do_not_parse(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *argv)
    assert code == 2 and out == "" and "Traceback" not in err and err


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for flag in ("--out", "--cache"):
        code, _, err = said(capsys, "run", "pixels:8", "--data", "digits", *folders, flag, str(tmp_path / "file" / "x"))
        assert code == 2 and "wanted a folder to write into" in err and err.splitlines()[-1].startswith("evaltk: ")


def test_a_corrupt_image_is_named(image_tree: Build, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    root = image_tree({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 3})
    (root / "test/b/001.png").write_bytes(b"")
    command = ["run", "pixels:4", "--data", f"pics:imagefolder={root}", *SMALL, *folders]
    code, out, err = said(capsys, *command)
    assert code == 2 and not out and "test/b/001.png" in err and "--skip-bad-images N" in err
    code, out, err = said(capsys, *command, "--skip-bad-images", "1")
    assert code == 0 and "n = 4" in out and "- 1 unreadable images left out of test" in out


def test_a_bug_is_a_traceback(folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from protocols import knn

    def broken(*given: object) -> None:
        raise KeyError("ours")

    protocol = dataclasses.replace(knn.PROTOCOL, run=broken)
    monkeypatch.setattr(protocols, "registry", lambda: {"knn": protocol})
    with pytest.raises(KeyError):
        cli.main(["run", "pixels:8", "--data", "digits", *SMALL, *folders])


def test_an_interrupt_and_a_pipe_of_our_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaltk.cli import ls

    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(ls, "main", interrupted)
    code, _, err = said(capsys, "ls", "tables")
    assert code == 130 and "run again to resume" in err

    def broken(argv: list[str]) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(ls, "main", broken)
    monkeypatch.setattr(streams, "reader_gone", lambda: False)
    with pytest.raises(BrokenPipeError):  # e.g. to a decoding process: not the end of a `| head`
        cli.main(["ls", "tables"])


@pytest.mark.parametrize("argv", [["ls", "checkpoints"], ["run", "--help"], ["--help"]])
def test_a_reader_that_has_gone(argv: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-m", "evaltk", *argv], stdout=-1, stderr=-1) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_quiet_and_verbose(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "pixels:8", "--data", "digits", *SMALL, *folders]
    code, out, err = said(capsys, *command, "--quiet")
    assert code == 0 and "### Results" in out and err == ""
    assert said(capsys, "-q", *command) == (0, out, "") and "done before" in said(capsys, *command)[2]
    code, _, err = said(capsys, *command, "-v", "--limit", "0")
    assert code == 2 and "evaltk: wanted at least one image" in err and "Traceback" in err
    assert said(capsys, *command, "-q", "--limit", "0")[2].count("\n") == 1
    code, out, err = said(capsys, *command, "--quiet", "--verbose")
    assert code == 2 and not out and err.startswith("evaltk: wanted --quiet or --verbose; got both")


def test_a_smoke_test(tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "pixels:8", "--data", "digits", *SMALL, *folders]
    whole = said(capsys, *command)[1]
    code, part, _ = said(capsys, *command, "--limit", "50")
    assert code == 0 and "n = 50" in part and "smoke test on 50 of 1,000 train and 50 of 797 test images" in part
    assert said(capsys, *command)[1] == whole and "smoke" not in whole
    code, out, _ = said(capsys, "table", "--runs", str(tmp_path / "runs"))
    assert code == 0 and "[smoke test yes]" in out and "smoke test on 50 of 1,000 train" in out
    code, out, _ = said(capsys, "table", "--runs", str(tmp_path / "runs"), "--layout", "all")
    assert code == 0 and out.count("### k-NN") == 2 and "n = 50" in out and "n = 797" in out
    kept = [result for _, result in results.find(tmp_path / "runs") if result.deviations]
    assert [d.kind for result in kept for d in result.deviations] == [DeviationKind.SMOKE_TEST]
    assert kept[0].data.sizes == {"train": 50, "test": 50} and kept[0].made["device"].startswith("cpu")


def test_a_footnote_stands_once(folders: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = said(capsys, "run", "pixels:8", "--data", "digits", "again:digits", *SMALL, *folders)
    assert code == 0 and out.count("### ") == 1 and out.count("- chosen k: ") == 1
    code, out, _ = said(capsys, "table", "--runs", str(tmp_path / "runs"), "--layout", "all")
    assert code == 0 and out.count("### ") == 2 and out.count("- best k: ") == 1


def test_the_device_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, mps, device, allowed in (
        (2, True, "cuda", True),
        (0, True, "mps", True),
        (0, True, "cpu", False),
        (0, False, "cpu", True),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpus=gpus: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert machine.resolve_device("auto", mps=allowed) == device
        assert machine.resolve_device("cpu") == "cpu"
        if gpus:
            assert [machine.resolve_device(d) for d in ("cuda", "cuda:0", "cuda:1")] == ["cuda", "cuda:0", "cuda:1"]
            with pytest.raises(
                SettingsError, match=r"'cuda:2' on a machine with 2 GPUs; where: --device; do: --device cuda:1"
            ):
                machine.resolve_device("cuda:2")
        else:
            with pytest.raises(SettingsError, match="'cuda' on a machine with 0 GPUs"):
                machine.resolve_device("cuda")
    for name in ("gpu", "cuda:", "cuda:one", "cpu:0", "mps:1", "meta", ""):
        with pytest.raises(SettingsError, match="wanted auto, cpu, mps, cuda or cuda:N"):
            machine.resolve_device(name)
    with pytest.raises(SettingsError, match="mps, the GPU of a Mac"):
        machine.resolve_device("mps")


@pytest.mark.documents
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("demo", "--out", str(tmp_path / "demo"), "--epochs", "1", "--protocols", "knn", "prototypes")
    code, out, err = said(capsys, *asked)
    assert code == 0 and "### Results on digits test, n = 797" in out and "prototypes unique" in out
    assert all(name in out for name in ("pixels:8", "random:vit_", "demo_dino", "demo_dino_vmf"))
    assert "pretraining demo_dino_vmf" in err and "print them again" in err
    for name in ("demo_dino", "demo_dino_vmf"):  # a progress line each
        assert f"{name} step 20 of 20: 1,024 of 1,024 prototypes unique, largest set 1" in err
    closing = out.splitlines()[-5:]
    assert [line.partition(":")[0] for line in closing] == [
        "Duplicates", "Void set", "Use", "k-NN", "Few-shot and linear",
    ]  # fmt: skip
    assert "DINO ends with 1,024 unique prototypes of 1,024" in closing[0] and "not seen in this run" in closing[1]
    assert closing[4] == "Few-shot and linear: not measured."
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "k-NN top-1" in page and "prototypes during training" in page and "similarity of prototypes of" in page
    drawn = {path.name.partition("-")[0] for path in (tmp_path / "demo" / "figures").iterdir()}
    assert drawn == {"prototypes", "usage", "gallery", "similarity"}
    code, again, err = said(capsys, *asked)
    assert code == 0 and again == out and "pretraining" not in err
    code, out, _ = said(capsys, "inspect", str(tmp_path / "demo" / "demo_dino_vmf" / "checkpoint.pth"))
    assert code == 0 and "branch teacher" in out and "vmf" in out
    assert said(capsys, *asked[:4], "2")[0] == 2  # other runs than those in the folder
