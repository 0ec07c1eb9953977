"""Commands that list what is there: quick, without torch, in every form."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import said

from evaltk import results
from evaltk.cli import cache

Build = Callable[..., Path]
SMALL = ["--knn.k", "1", "5", "--knn.choose", "20"]
QUICK = """
import json, sys
from evaltk import cli
for argv in json.loads(sys.argv[1]):
    try:
        code = cli.main(argv)
    except SystemExit as exit_:
        code = exit_.code
    heavy = [name for name in ("torch", "torchvision", "timm", "matplotlib") if name in sys.modules]
    if code or heavy:
        sys.exit(f"{argv}: code {code}, imported {heavy}")
"""


def test_what_computes_nothing_does_not_import_torch(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str], image_tree: Build
) -> None:
    root = image_tree({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 3})
    second_run = ["run", "pixels:4", "--data", "digits", f"pics:imagefolder={root}", *SMALL, *folders]
    assert said(capsys, *second_run)[0] == 0
    commands = [["--help"], ["--version"], ["run", "--help"], ["table", "--help"], ["cache", "--help"]]
    commands += [["ls", kind] for kind in ("protocols", "datasets", "checkpoints", "tables")]
    commands += [["table", "--runs", str(tmp_path / "runs")], second_run, [*second_run, "--json"]]
    commands += [["cache", "ls", "--cache", str(tmp_path / "cache")], ["inspect", "--help"], ["pretrain", "--help"]]
    ended = subprocess.run([sys.executable, "-c", QUICK, json.dumps(commands)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "### Results" in ended.stdout and "done before:" in ended.stderr


def test_what_is_mistyped_is_answered_before_torch_is_imported(tmp_path: Path) -> None:
    commands = [["inspect", "no.pth"], ["run", "no.pth", "--data", "digits"], ["run", "pixels:8", "--data", "digit"]]
    commands += [["extract", "no.pth", "--data", "digits", "--out", "x.npz"], ["convert", "no.pth", "x.safetensors"]]
    commands += [["pretrain", "no_such_recipe"], ["pretrain", "--epochs", "2"], ["run", "dino_vits61", "--data", "d"]]
    quick = QUICK.replace("if code or heavy", "if code != 2 or heavy")
    ended = subprocess.run([sys.executable, "-c", quick, json.dumps(commands)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("wanted ") == len(commands) and "did you mean 'dino_vits16'" in ended.stderr


def test_ls(capsys: pytest.CaptureFixture[str], folders: list[str]) -> None:
    expected = {
        "protocols": "knn ",
        "datasets": "imagefolder ",
        "checkpoints": "dino_vits16 ",
        "tables": "knn ",
    }
    for kind, name in expected.items():
        code, out, err = said(capsys, "ls", kind)
        assert code == 0 and not err and any(line.startswith(name) for line in out.splitlines()), out
        assert max(map(len, out.splitlines())) <= (100 if kind == "checkpoints" else 80)
    digits = next(line for line in said(capsys, "ls", "datasets")[1].splitlines() if line.startswith("digits "))
    assert digits.split() == ["digits", "images", "1,000/797", "10", "top-1", "none"]
    assert "?" not in said(capsys, "ls", "datasets")[1]


def test_ls_checkpoints(capsys: pytest.CaptureFixture[str], folders: list[str]) -> None:
    everything = said(capsys, "ls", "checkpoints")[1].splitlines()
    assert "MAE: family mae, CC BY-NC 4.0" in everything and "hf:facebook/vit-mae-base" in "\n".join(everything)
    assert len(everything) < 250 and not any(
        line.startswith(("dino_vits16_full", "dino_vits16_linear")) for line in everything
    )
    rows = [line.split() for line in everything]
    assert ["dino_vits16", "74.5", "77.0", "-", "-", "fetch", "_full", "_linear"] in rows
    assert ["esvit_swint7", "75.7", "78.0", "-", "-", "ask"] in rows and [
        "deit_vits16",
        "-",
        "-",
        "-",
        "79.9",
        "fetch",
    ] in rows
    words = said(capsys, "ls", "checkpoints", "SwAV", "w2")[1].splitlines()
    assert next(line.split()[0] for line in words if "fetch" in line) == "swav_resnet50w2_400ep" and len(words) == 9
    assert said(capsys, "ls", "checkpoints", "dino_vits16_full")[1].splitlines()[3].split()[:2] == [
        "dino_vits16_full",
        "74.5",
    ]
    siglip = said(capsys, "ls", "checkpoints", "siglip")[1].split("\n")
    assert siglip[-2].startswith("hf:google/siglip") and len(siglip) == 4
    code, out, err = said(capsys, "ls", "checkpoints", "nothing_like_it")
    assert (code, out) == (2, "") and "'nothing_like_it'" in err
    assert len(said(capsys, "ls", "datasets", "cifar")[1].splitlines()) == 6


def test_table_forms(tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "run", "pixels:8", "pixels:4", "--data", "digits", "small:digits", *SMALL, *folders)
    runs = ["--runs", str(tmp_path / "runs")]
    code, markdown, _ = said(capsys, "table", *runs, "--layout", "knn")
    assert code == 0 and markdown.count("### ") == 2
    code, text, _ = said(capsys, "table", *runs, "--layout", "knn", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 0 and len(rows) == 2 * 2 * 6 and text.count("checkpoint,column") == 1
    for _, result in results.find(tmp_path / "runs"):
        for score in result.scores:
            if score.metric != "top1":
                continue
            (row,) = [
                r
                for r in rows
                if r["checkpoint"] == result.checkpoint["name"]
                and r["column"] == f"k={score.at['k']}"
                and f" on {score.dataset} " in r["table"]
            ]
            assert float(row["value"]) == pytest.approx(100 * score.value, rel=1e-15) and row["published"] == ""
    code, _, err = said(capsys, "table", "--runs", str(tmp_path / "cache"))
    assert code == 2 and "do: evaltk run CKPT" in err


def test_table_beside_the_cache_of_a_demo(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "run", "pixels:8", "--data", "digits", *SMALL, *folders, "--cache", str(tmp_path / "runs" / "cache"))
    code, out, _ = said(capsys, "table", "--runs", str(tmp_path / "runs"))  # the cache has JSON files of its own
    assert code == 0 and "pixels:8" in out


def test_cache(tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--cache", str(tmp_path / "cache")]
    nothing = f"evaltk: 0 entries, 0.0 MiB in {at[1]}, which is not there yet\n"
    assert said(capsys, "cache", "ls", *at) == (0, "", nothing)
    said(capsys, "run", "pixels:8", "--data", "digits", *SMALL, *folders)
    root = tmp_path / "cache" / "features"
    (root / f"{'a' * 64}.partial").mkdir()
    (root / f".{'b' * 64}.left").mkdir()  # what a run that was killed while it joined shards leaves
    code, out, _ = said(capsys, "cache", "ls", *at)
    assert code == 0 and len(out.splitlines()) == 5 and out.count("unfinished") == 2 and out.startswith("entry ")
    assert "train, cls/last1/normed, resize 8 bicubic" in out and "test, cls" in out
    (one,) = [p.name for p in root.iterdir() if (p / "key.json").exists() and "test" in (p / "key.json").read_text()]
    code, out, _ = said(capsys, "cache", "prune", one[:12], "b" * 12, *at)
    assert code == 0 and len(out.splitlines()) == 2 and not (root / one).exists()
    code, out, err = said(capsys, "cache", "prune", "cccc", *at)
    assert code == 2 and "evaltk cache ls shows them" in err and len(list(root.iterdir())) == 2
    code, out, err = said(capsys, "cache", "prune", "--older-than", "1", *at)
    assert (code, out) == (0, "") and "removed 0 entries, 0.0 MiB" in err
    (root / ("c" * 64)).symlink_to(tmp_path)  # a link goes, not what it leads to
    assert said(capsys, "cache", "prune", "--all", *at)[0] == 0 and not list(root.iterdir()) and tmp_path.is_dir()
    assert cache.Options(action="ls").cache is None
