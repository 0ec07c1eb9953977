"""A bare matrix of prototypes: read, counted, told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaltk.cli.score import prototypes as command
from evaltk.errors import DataError, SettingsError
from evaltk.prototypes import report as prototype_report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three different prototypes and two duplicates of the first."""
    w = np.concatenate([2 * np.eye(4)[:3], 3 * np.eye(4)[:1] + 0.001, 5 * np.eye(4)[:1]])
    np.save(tmp_path / "w.npy", w)
    return tmp_path / "w.npy"


def test_told_by_hand(path: Path) -> None:
    told = prototype_report.score_matrix(path, thresholds=(0.9,))
    assert (told["prototypes"], told["dimension"]) == (5, 4)
    assert told["norm"]["min"] == pytest.approx(2) and told["norm"]["max"] == pytest.approx(5)
    assert {(c["unique"], c["largest"]) for c in told["counts"]} == {(3, 3)}
    assert told["unique_share_by_distance"] == pytest.approx(0.6)
    assert "60.0 % of the prototypes (3 of 5)" in told["verdict"]
    assert "From the weights alone" in told["verdict"]


def test_text_and_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--matrix", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"][0]["unique"] == 3
    assert command.main(["--matrix", str(path), "--thresholds", "0.9"]) == 0
    said = capsys.readouterr().out
    assert "5 prototypes of dimension 4, norms 2 to 5 (median 2)" in said
    assert "leader" in said and "3 | 3" in said


def test_bad_files(tmp_path: Path, path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        prototype_report.score_matrix(tmp_path / "none.npy")
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(DataError, match=r"prototypes \[K, p\]"):
        prototype_report.score_matrix(tmp_path / "flat.npy")
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="ValueError"):
        prototype_report.score_matrix(tmp_path / "objects.npy")
    np.save(tmp_path / "zero.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"0 \(zero\), 1 \(zero\)"):
        prototype_report.score_matrix(tmp_path / "zero.npy")
    with pytest.raises(SettingsError, match=r"\(-1, 1\)"):
        prototype_report.score_matrix(path, threshold=1.0)
