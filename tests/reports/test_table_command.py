"""`evaltk table`: from a folder of results to text on stdout; what is wrong in the folder is told on stderr."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from result_files import knn, predicted, retrieval, write

from evaltk import cli, results
from reports import tidy

RIGHT = np.arange(200) % 5 > 0


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    other = RIGHT.copy()
    other[:80] = False
    write(tmp_path / "runs", [predicted("net a", RIGHT), predicted("net_b", other), (knn(), {}), (retrieval(), {})])
    return tmp_path / "runs"


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = cli.main(["table", *map(str, argv)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("form", ["md", "csv", "html", "latex", "terminal"])
def test_formats(runs: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    starts = {"md": "### ", "csv": "table,", "html": "<table", "latex": "% \\usepackage", "terminal": ""}
    for name in ("knn", "retrieval", "all", "sweep", "compare", "published", "paper/table2", "paper/table12"):
        if (name, form) == ("all", "csv"):
            continue
        pair = ("--models", "net a", "net_b") if name == "compare" else ()
        code, out, _ = said(capsys, "--runs", runs, "--layout", name, "--format", form, *pair)
        assert code == 0 and out.startswith(starts[form]) and out.endswith("\n"), name


def test_bold_intervals_and_verdicts_are_there(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = said(capsys, "--runs", runs, "--layout", "all")
    assert "**80.00** [79.60, 80.40]" in out and "published 74.44: reproduced" in out and not err
    _, out, _ = said(capsys, "--runs", runs, "--layout", "all", "--no-intervals")
    assert "[79.60" not in out and "**80.00**" in out
    _, out, err = said(capsys, "--runs", runs)
    assert "**80.00** ± 0.40" in out and "published numbers: 3 reproduced" in err
    assert " ± " not in said(capsys, "--runs", runs, "--no-intervals")[1]


def test_tidy_rows_hold_every_score(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [result for _, result in results.find(runs)]
    rows = list(csv.DictReader(io.StringIO(said(capsys, "--runs", runs, "--format", "csv")[1])))
    assert list(rows[0]) == list(tidy.COLUMNS)
    scores = [(r.checkpoint["name"], s) for r in found for s in r.scores]
    assert [(row["model"], row["metric"], float(row["value"])) for row in rows] == [
        (name, s.metric, s.value) for name, s in scores
    ]
    assert rows[0]["setting"] == "k=20 temperature=0.07"
    out = said(capsys, "--runs", runs, "--format", "json", "--models", "net*", "--rename", "net a=A")[1]
    assert {row["model"] for row in json.loads(out)} == {"A", "net_b"}
    assert json.loads(out)[0]["setting"] == {"k": 20, "temperature": 0.07}


def test_latex_has_a_label_and_no_intervals(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "--runs", runs, "--format", "latex", "--rename", "net_b=B & C_d")
    assert "\\label{tab:results}" in out and "\\pm" not in out and r"B \& C\_d" in out
    assert "\\bfseries 80.00" in out and "{\\underline{48.00}}" in out
    assert "\\pm" in said(capsys, "--runs", runs, "--format", "latex", "--intervals")[1]


def test_published_alone(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, alone, err = said(capsys, "--layout", "paper/table2", "--published-only")
    assert code == 0 and "77.10" in alone and not err
    _, with_ours, _ = said(capsys, "--layout", "paper/table2", "--runs", runs)
    assert "74.50" in with_ours and with_ours != alone
    _, out, err = said(capsys, "--layout", "paper/table5", "--runs", runs)
    assert "58.1" in out and "published numbers only: no results for paper/table5" in err
    monkeypatch.chdir(tmp_path / "runs")  # no folder `runs` here, and none was named
    assert said(capsys, "--layout", "paper/table2")[1] == alone
    assert said(capsys, "--layout", "paper/table2", "--runs", "nowhere")[0] == 2


def test_standalone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "--runs", runs, "--layout", "all", "--format", "latex", "--standalone")
    assert out.startswith("\\documentclass") and out.rstrip().endswith("\\end{document}")
    assert out.count("\\begin{table}") == 3 and "net\\_b" in out
    _, out, _ = said(capsys, "--runs", runs, "--layout", "all", "--format", "html", "--standalone")
    assert out.startswith("<!doctype html>") and out.count("<table") == 3


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--layout", "papr/table2"], "did you mean 'paper/table2'"),
        (["--layout", "knn", "--published-only"], "wanted a paper's table; got --layout knn"),
        (["--published-only"], "wanted a paper's table; got --layout summary"),
        (["--standalone"], "wanted latex or html; got md"),
        (["--models", "net"], "wanted a name for --models; got 'net'"),
        (["--columns", "J&F"], "wanted a column; got 'J&F'"),
        (["--layout", "knn", "--sort", "k=20"], "wanted the table of one row per model; got --layout knn"),
        (["--layout", "knn", "--format", "json"], "wanted json without --layout"),
        (["--rename", "net a"], "wanted OLD=NEW"),
        (["--digits", "-1"], "wanted 0 to 10 decimals"),
        (["--layout", "compare"], "wanted two checkpoints to compare; got 3"),
        (["--layout", "compare", "--models", "net a", "nt_b"], "did you mean 'net_b'"),
        (["--layout", "vos"], "wanted results of the protocol vos; got none among 4"),
    ],
)
def test_what_a_user_can_mend(runs: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "--runs", runs, *argv)
    assert code == 2 and not out and says in err and err.count("\n") == 1


def test_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "--runs", tmp_path)
    assert (code, out) == (2, "") and "wanted results; got none" in err
    code, _, err = said(capsys, "--runs", tmp_path / "nowhere")
    assert code == 2 and "no such folder" in err


def test_foreign_and_damaged_files_are_named_and_counted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = said(capsys, "--runs", runs, "--layout", "all")[1]
    (runs / "notes.json").write_text('{"a": 1}')
    (runs / "net_b" / "knn-digits-aaaaaaaaaaaa.json").write_text('{"format": 1, "chec')
    (path,) = (runs / "net-a").glob("*.json")
    newer = json.loads(path.read_text()) | {"format": 3}
    newer.pop("crc32", None)  # of a file that was written so, not damaged
    (runs / "net_b" / "knn-digits-bbbbbbbbbbbb.json").write_text(json.dumps(newer))
    odd = json.loads(path.read_text()) | {"settings": [1], "format": 1}
    odd.pop("crc32", None)
    (runs / "net_b" / "knn-digits-cccccccccccc.json").write_text(json.dumps(odd))
    cache = runs / "cache" / "features" / "0"
    cache.mkdir(parents=True)
    (cache / "key.json").write_text("{}")  # the cache's own is no news
    code, out, err = said(capsys, "--runs", runs, "--layout", "all")
    assert code == 0 and out == before
    lines = err.splitlines()
    assert [re.sub(r".*/", "", line) for line in lines[:4]] == [
        "knn-digits-aaaaaaaaaaaa.json: JSONDecodeError: Unterminated string starting at: line 1 column 15 (char 14)",
        "knn-digits-bbbbbbbbbbbb.json: format 3, of a later evaltk",
        "knn-digits-cccccccccccc.json: ValueError: a field of another kind",
        "notes.json: no result of evaltk",
    ]
    assert lines[4] == "evaltk: 4 results read, 4 JSON files skipped"
    for i in range(9):
        (runs / f"foreign{i}.json").write_text("[]")
    lines = said(capsys, "--runs", runs, "--layout", "all")[2].splitlines()
    assert len(lines) == 6 and lines[5] == "evaltk: 4 results read, 13 JSON files skipped (8 not listed)"


def test_damaged_and_missing_predictions(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (runs / "net_b").glob("*.json")
    results.predictions_path(path).write_bytes(b"PK")
    code, out, err = said(capsys, "--runs", runs, "--layout", "all")
    assert code == 0 and "**" not in out and "no significance test in best k: predictions of net_b missing" in out
    assert "net_b" in err and "predictions" in err
    results.predictions_path(path).unlink()
    code, out, err = said(capsys, "--runs", runs, "--layout", "all")
    assert code == 0 and "**" not in out and not err


def test_hostile_names_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, [predicted("<script>alert(1)</script>", RIGHT), predicted("a_b%\x1b[2J", RIGHT)])
    html = said(capsys, "--runs", tmp_path, "--format", "html")[1]
    assert "<script" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    latex = said(capsys, "--runs", tmp_path, "--format", "latex")[1]
    assert r"a\_b\%" in latex and r"\textless{}script" in latex
    for form in ("md", "html", "latex", "terminal"):
        assert "\x1b" not in said(capsys, "--runs", tmp_path, "--format", form)[1]
