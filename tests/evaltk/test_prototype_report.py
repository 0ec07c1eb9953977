"""A bare matrix of prototypes: read, counted, told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaltk.cli.score import prototypes as command
from evaltk.errors import DataError, SettingsError
from evaltk.prototypes import report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three different prototypes and two duplicates of the first."""
    w = np.concatenate([2 * np.eye(4)[:3], 3 * np.eye(4)[:1] + 0.001, 5 * np.eye(4)[:1]])
    np.save(tmp_path / "w.npy", w)
    return tmp_path / "w.npy"


def test_told_by_hand(path: Path) -> None:
    counted = report.score_matrix(path, thresholds=(0.9,))
    assert (counted["prototypes"], counted["dimension"]) == (5, 4)
    assert counted["norm"]["min"] == pytest.approx(2) and counted["norm"]["max"] == pytest.approx(5)
    assert {(c["unique"], c["largest"]) for c in counted["counts"]} == {(3, 3)}
    assert counted["unique_share_by_distance"] == pytest.approx(0.6)
    assert "60.0 % of the prototypes (3 of 5)" in counted["verdict"]
    assert "From the weights alone" in counted["verdict"]


def test_text_and_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--matrix", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"][0]["unique"] == 3
    assert command.main(["--matrix", str(path), "--thresholds", "0.9"]) == 0
    said = capsys.readouterr().out
    assert "5 prototypes of dimension 4, norms 2 to 5 (median 2)" in said
    assert "leader: unique" in said and [c.strip() for c in said.splitlines()[4].split("|")[1:4]] == ["0.9", "3", "3"]


def test_bad_files(tmp_path: Path, path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        report.score_matrix(tmp_path / "none.npy")
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(DataError, match=r"prototypes \[K, p\]"):
        report.score_matrix(tmp_path / "flat.npy")
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="array of type object"):
        report.score_matrix(tmp_path / "objects.npy")
    np.save(tmp_path / "zero.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"0 \(zero\), 1 \(zero\)"):
        report.score_matrix(tmp_path / "zero.npy")
    with pytest.raises(SettingsError, match=r"\(-1, 1\)"):
        report.score_matrix(path, threshold=1.0)
