"""`evaltk cka`: checkpoints and blocks compared, by the formula on features extracted apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from family_files import GOLDEN as FAMILY_FILES
from sklearn.datasets import load_digits

import evaltk
from evaltk import cli
from evaltk.types import Recipe

DEIT = str(FAMILY_FILES / "deit_checkpoint.pth")


def slow(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    h = np.eye(len(a)) - 1 / len(a)
    k, m = h @ a @ a.T @ h, h @ b @ b.T @ h
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    return ["--data", "digits", "--limit", "40", "--num-heads", "3", "--cache", str(tmp_path), "--quiet"]


def test_checkpoints(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cka", DEIT, "pixels:8", *argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    net = evaltk.load_checkpoint(DEIT, num_heads=3)
    x, pixels = (evaltk.extract(one, "digits", limit=40).x for one in (net, "pixels:8"))
    wanted = slow(x, pixels)
    assert found["rows"] == found["columns"] == ["deit_checkpoint", "pixels:8"]
    np.testing.assert_allclose(found["cka"], [[1, wanted], [wanted, 1]], rtol=1e-6)
    assert len(load_digits().images) > 40 and found["images"] == "40 images of digits test"


def test_blocks(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cka", DEIT, "--blocks", *argv]) == 0
    assert "Linear CKA on 40 images of digits test" in (text := capsys.readouterr().out)
    net = evaltk.load_checkpoint(DEIT, num_heads=3)
    x = evaltk.extract(net, "digits", limit=40, recipe=Recipe(last=2, norm=False)).x
    assert f"{slow(x[:, :24], x[:, 24:]):.3f}" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pixels:8"], "two checkpoints or more"),
        (["pixels:8", "pixels:9", "pixels:10", "--blocks"], "one checkpoint or two"),
        (["pixels:8", "--blocks"], "class tokens of one width"),
    ],
)
def test_refused(argv: list[str], words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cka", *words, *[w for w in argv if w not in ("--num-heads", "3")]]) == 2
    assert said in capsys.readouterr().err
