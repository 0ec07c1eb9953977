"""`evaltk inspect`: what it says of a file, and exit code 2 with one line where the file cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from layouts import GOLDEN, dino_full, msn_full, save, vit

from evaltk.cli import main

DINO = str(GOLDEN / "dino_p16_full_checkpoint.pth")


def test_a_flag_that_is_needed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", DINO]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "pass --num-heads" in err
    assert err.count("\n") == 1 and len(err) < 300
    assert main(["inspect", DINO, "--verbose"]) == 2
    assert "calls itself vit_small" in capsys.readouterr().err


def test_what_is_told_of_the_golden_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", DINO, "--num-heads", "3"]) == 0
    out = capsys.readouterr().out
    assert "dino, branch teacher, epoch 100" in out
    assert "200 prototypes of dimension 32" in out
    assert "48 wide, 5 blocks, 3 heads, eps 1e-06, gelu, patch 16, 224 px, 187,872 parameters" in out
    teacher = torch.load(DINO, weights_only=False)["teacher"]
    g = teacher["head.last_layer.weight_g"].abs()
    assert f"norms {float(g.min()):.4g} to {float(g.max()):.4g}" in out
    assert "hint set aside" in out
    assert main(["inspect", DINO, "--num-heads", "3", "--branch", "student"]) == 0
    assert "branch student" in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", DINO, "--num-heads", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["branch"], told["epoch"]) == ("dino", "teacher", 100)
    assert (told["head"]["prototypes"], told["head"]["dimension"], told["head"]["kind"]) == (200, 32, "dino")
    assert told["head"]["norm_min"] < told["head"]["norm_median"] < told["head"]["norm_max"]
    assert told["arch"]["num_heads"] == 3
    assert told["used"]["cls_token"] == [1, 1, 48]
    assert told["dropped"]["student"] == "the other branch"
    assert len(told["sha256"]) == len(told["digest"]) == 64


def test_norms_of_msn_prototypes_are_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not of the unit rows that its loss makes of them."""
    tree = msn_full()
    path = save(tree, tmp_path / "net.pth.tar")
    assert main(["inspect", str(path), "--num-heads", "3", "--json"]) == 0
    head = json.loads(capsys.readouterr().out)["head"]
    assert head["norm_max"] == pytest.approx(float(tree["prototypes"].norm(dim=1).max()))
    assert head["center"] is False


@pytest.mark.parametrize("name", ["pixels:8", "random:resnet18", "random:vit_patch8_dim24_depth2_heads3_img32"])
def test_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", name]) == 0
    out = capsys.readouterr().out
    assert "- (no file)" in out
    assert "none" in out
    if "resnet" in name:
        assert "11,176,512 parameters" in out  # without running statistics


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing.pth"],
        ["."],
        [DINO, "--num-heads", "5"],
        [DINO, "--num-heads", "0"],
        [DINO, "--num-heads", "3", "--branch", "encoder"],
        [DINO, "--num-heads", "3", "--family", "timn"],
        [DINO, "--num-heads", "3", "--norm-eps", "-1"],
        [DINO, "--num-heads", "3", "--std", "0", "1", "1"],
        ["random:"],
        ["pixels:x"],
        ["dino_vits61"],
    ],
)
def test_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("evaltk: wanted ")
    assert err.count("\n") == 1
    assert "; do: " in err


def test_a_file_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = dino_full() | {"\x1b[2Jgone": 3}
    assert main(["inspect", str(save(tree, tmp_path / "net.pth")), "--num-heads", "3"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_mistyped_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(DINO), "--num-head", "3"]) == 2
    assert "--num-heads" in capsys.readouterr().err


def test_a_flat_file_is_asked_about_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(save(vit(), tmp_path / "net.pth"))
    assert main(["inspect", path]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "pass --num-heads N --norm-eps EPS --mean R G B --std R G B" in err and len(err) < 300
    assert main(["inspect", path, "--verbose"]) == 2
    err = capsys.readouterr().err.splitlines()[0]
    command = err[err.index("evaltk inspect ") :].partition(";")[0].split()
    assert main([*command[1:]]) == 0
    assert "flat, branch backbone" in capsys.readouterr().out
    assert main(["inspect", path, "--num-heads", "3", "--family", "dino"]) == 0
    assert "user's word" in capsys.readouterr().out
