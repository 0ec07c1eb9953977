"""`evaltk results`: filters, files for other programs, folders made one, and figures of others beside ours."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaltk import cli, results
from evaltk.errors import EvaltkError
from evaltk.results import foreign, rows
from evaltk.types import Preprocessing, Result, ResultData, Score


def made(name: str, protocol: str = "knn", *, value: float = 0.5, epoch: int | None = None, seed: int = 0) -> Result:
    at = {"k": 20} if protocol == "knn" else {}
    score = Score(
        dataset="d", split="test", metric="top1", value=value, n=8, at=at, interval=(value - 0.1, value + 0.1)
    )
    return Result(
        checkpoint={"name": name, "family": "dino", "arch": {"name": f"vit_{name}"}, "epoch": epoch, "digest": "ab"},
        protocol=protocol, version=1, settings={"k": [20]}, data=ResultData(name="d", fingerprint="f"),
        preprocessing=Preprocessing(precision="fp32", position="dino"), scores=(score,), seed=seed,
        request=f"{protocol}{seed}".encode().hex().ljust(64, "0"), made={"date": "2026-01-02", "device": "cpu"},
    )  # fmt: skip


def put(folder: Path, *all_of: Result) -> list[Path]:
    paths = []
    for result in all_of:
        name = str(result.checkpoint["name"])
        path = results.path_of(folder, name, result.protocol, result.data.name, result.request)
        results.write(path, result, {"k20_t0.07": np.arange(8, dtype=np.int32)})
        paths.append(path)
    return paths


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    put(
        tmp_path / "runs",
        made("small", value=0.75, epoch=10),
        made("small", "linear", value=0.9),
        made("base", value=0.25),
    )
    return tmp_path / "runs"


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command in this process."""
    code = cli.main([str(a) for a in argv])
    return (code, *capsys.readouterr())


WHERE = {
    "protocol=knn": "small base",
    "protocol != knn": "small/linear",
    "protocol=knn and arch~vit_small": "small",
    "arch ~ '^vit_(base|small)$' and value >= .25 and value<0.9": "small base",
    "epoch=10 or protocol=linear": "small small/linear",
    "epoch<100": "small",  # what has none is in no order
    "epoch!=10": "base small/linear",
    "not (epoch = 10 or value>0.8)": "base",
    "protocol=knn or protocol=linear and value>1": "small base",
    'checkpoint="small" and not protocol=linear': "small",
    "at~'\"k\": 20' and source=evaltk": "small base",
    "date>2026-01-01": "small base small/linear",
    "checkpoint!~sm": "base",
}


@pytest.mark.parametrize("text", [*WHERE])
def test_where(text: str, runs: Path) -> None:
    fits = rows.where(text)
    found = {
        f"{row['checkpoint']}" + ("/linear" if row["protocol"] == "linear" else "")
        for path, result in results.find(runs)
        for row in rows.of(path, result)
        if fits(row)
    }
    assert found == set(WHERE[text].split())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("protcol=knn", "got 'protcol'; where: --where; do: did you mean 'protocol'"),
        ("protocol", "got an end in the middle"),
        ("protocol=knn arch=x", "got 'arch'"),
        ("value>high_one", "'high_one' for value, a number"),
        ("arch<x", "got < for arch, which is no number"),
        ("arch~(", "got '('"),
        ("arch~'('", "unterminated subpattern"),
        ("(protocol=knn", "no closing parenthesis"),
        ("value > and", "got 'and'"),
        ("value = 'x", "'x\"; where"),
        ("", "got an end in the middle"),
        ("not " * 5000 + "value>0", "nested too deep"),
        ("value>nan", "'nan' for value, a number"),
    ],
)
def test_conditions_that_are_none(text: str, says: str) -> None:
    with pytest.raises(EvaltkError) as error:
        rows.where(text)
    assert says in str(error.value)


def test_ls(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "results", "ls", "--runs", runs, "--where", "value>0.5")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and [line[:2] for line in lines] == [["small", "knn"], ["small", "linear"]]
    assert lines[0][4:9] == ["0.7500", "[0.6500,", "0.8500]", "k", "20"] and lines[0][-1].endswith(".json")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_export(form: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / f"out.{form}"
    assert said(capsys, "results", "export", target, "--runs", runs)[1].endswith("3 scores of 3 results\n")
    wanted = [row for path, result in results.find(runs) for row in rows.of(path, result)]
    if form == "csv":
        with target.open(newline="") as stream:
            told: list[Any] = list(csv.DictReader(stream))
        assert [float(row["value"]) for row in told] == [row["value"] for row in wanted]
        assert told[0].keys() == wanted[0].keys() and [row["epoch"] for row in told] == ["", "10", ""]
    elif form == "jsonl":
        told = [json.loads(line) for line in target.read_text().splitlines()]
        assert [(row["value"], row["at"]) for row in told] == [(w["value"], json.loads(str(w["at"]))) for w in wanted]
    else:
        from pyarrow import parquet

        assert parquet.read_table(target).to_pylist() == wanted


def test_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, out = tmp_path / "one", tmp_path / "other", tmp_path / "out"
    put(one, made("small"), made("base", value=0.25))
    same, differs, _ = put(other, made("small"), made("base", value=0.3), made("small", seed=1))
    code, told, err = said(capsys, "results", "merge", one, other, "--runs", out)
    assert code == 2 and "2 results" not in told and "3 results added, 1 duplicates, 1 conflicts" in told
    assert f"duplicate: {same} is left out" in told and f"conflict: {differs} is left out" in told
    assert "results of one request differ" in err
    found = {(str(r.checkpoint["name"]), r.seed): (p, r.scores[0].value) for p, r in results.find(out)}
    assert {key: value for key, (_, value) in found.items()} == {
        ("small", 0): 0.5,
        ("base", 0): 0.25,
        ("small", 1): 0.5,
    }
    assert all(results.read_predictions(path) for path, _ in found.values())
    assert said(capsys, "results", "merge", one, "--runs", out)[0] == 0  # once more changes nothing
    (beside := results.predictions_path(next(iter(found.values()))[0])).write_bytes(b"x" * beside.stat().st_size)
    shutil.rmtree(tmp_path / "else", ignore_errors=True)
    code, _, err = said(capsys, "results", "merge", out, "--runs", tmp_path / "else")
    assert code == 2 and "predictions" in err


def test_figures_of_others(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text('checkpoint,protocol,dataset,metric,value,n,at\nDINO,knn,d,top1,74.5,50000,"{""k"": 20}"\n')
    argv = ["results", "import", table, "--runs", runs, "--source", "Paper (2021)"]
    code, _, err = said(capsys, *argv)
    assert code == 2 and "--percent" in err
    assert said(capsys, *argv, "--percent")[0] == 0
    ((path, result),) = [(p, r) for p, r in results.find(runs) if foreign.source(r)]
    assert result.scores == (
        Score(dataset="d", split=foreign.UNSTATED, metric="top1", value=0.745, n=50000, at={"k": 20}, interval=None),
    )
    (row,) = rows.of(path, result)
    assert (row["source"], row["family"], row["checkpoint"]) == ("Paper (2021)", "theirs", "DINO [Paper (2021)]")
    code, out, _ = said(capsys, "table", "--runs", runs)
    assert code == 0 and "74.50" in out and "a figure of Paper (2021), not measured here: not comparable" in out


def test_json_of_other_tools(tmp_path: Path) -> None:
    clip = {"dataset": "wds/cifar10", "model": "ViT-B-32", "pretrained": "openai", "task": "zeroshot_classification",
            "metrics": {"acc1": 0.9, "acc5": 0.99, "mean_per_class_recall": 0.8}, "language": "en"}  # fmt: skip
    (tmp_path / "clip.json").write_text(json.dumps(clip))
    figures = foreign.read(tmp_path / "clip.json")
    assert {(f.checkpoint, f.protocol, f.dataset, f.metric, f.value) for f in figures} == {
        ("ViT-B-32 openai", "zeroshot_classification", "wds/cifar10", metric, value)
        for metric, value in clip["metrics"].items()  # type: ignore[attr-defined]
    }
    (result,) = foreign.results(figures, "CLIP_benchmark", percent=False)
    assert len(result.scores) == 3 and result.data.name == "wds/cifar10"
    harness = {
        "results": {"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.25}},
        "config": {"model": "hf", "model_args": "pretrained=x"}, "n-samples": {"arc": {"effective": 40}},
    }  # fmt: skip
    (tmp_path / "lm.json").write_text(json.dumps(harness))
    acc, norm = foreign.read(tmp_path / "lm.json")
    assert (acc.checkpoint, acc.dataset, acc.metric, acc.n) == ("pretrained=x", "arc", "acc", 40)
    assert (acc.low, acc.high, norm.low) == (pytest.approx(0.304), pytest.approx(0.696), None)


BAD = {
    "a.csv|checkpoint,protocol,dataset,metric\n": "wanted the columns value",
    "a.csv|checkpoint,protocol,dataset,metric,value,vale\n": "got 'vale'",
    "a.csv|checkpoint,protocol,dataset,metric,value\na,b,c,top1,x\n": "a number for value; got 'x'; where:",
    "a.csv|checkpoint,protocol,dataset,metric,value\na,b,c,top1,nan\n": "a number for value",
    "a.csv|checkpoint,protocol,dataset,metric,value\na,,c,top1,1\n": "wanted a protocol; got nothing",
    "a.csv|checkpoint,protocol,dataset,metric,value\n": "wanted at least one figure",
    "a.json|{": "wanted JSON",
    "a.json|[1, 2]": "wanted the JSON of a known tool; got list",
    'a.json|{"scores": 1}': "got scores",
    'a.json|{"dataset": "d", "model": "m", "metrics": 3}': "wanted at least one figure",
    "a.csv|H\na,b,c,top1,0,55\n": "wanted 5 cells, as in the header; got 6 (0, 55)",
    "a.csv|H,value\na,b,c,top1,1,2\n": "got value twice",
    "a.csv|H\na,b,c,top1,0.5\na,b,c,top1,0.6\n": "wanted one figure for each; got 0.5 and 0.6",
    "a.csv|H,n\na,b,c,top1,0.5,-3\n": "wanted n from 0",
    "a.csv|H,low,high\na,b,c,top1,0.5,0.6,0.7\n": "wanted a value inside its interval",
    "a.csv|H,low\na,b,c,top1,0.5,0.4\n": "wanted low and high",
    'a.csv|H,at\na,b,c,top1,1,"[[1, 2]]"\n': "a JSON object for at",
    'a.csv|H,at\na,b,c,top1,1,"{""k"": NaN}"\n': "a JSON object for at",
    "a.csv|H\n" + "a" * 200_000 + ",b,c,top1,1\n": "wanted a CSV; got field larger",
    "a.csv|H\n\x1b[31ma,b,c,top1,1\n": "without control characters; got '\\x1b[31ma'",
    'a.json|{"results": {"t": {"acc,none": NaN}}}': "wanted a number for value",
    'a.json|{"results": {"t": {"acc,none": 1' + "0" * 400 + "}}}": "got a whole number of 401 digits",
    "a.json|" + "[" * 100_000: "nested too deep",
}


@pytest.mark.parametrize("case", [*BAD], ids=range(len(BAD)))
def test_files_of_others_that_will_not_do(case: str, tmp_path: Path) -> None:
    name, _, text = case.partition("|")
    (tmp_path / name).write_text(text.replace("H", "checkpoint,protocol,dataset,metric,value", 1))
    with pytest.raises(EvaltkError) as error:
        foreign.read(tmp_path / name)
    assert BAD[case] in str(error.value)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["export"], "wanted one file; got 0"),
        (["export", "x.xlsx"], "wanted a name ending in .csv, .jsonl, .parquet"),
        (["ls", "x"], "wanted no names; got 1"),
        (["ls", "--percent"], "do: it belongs to import"),
        (["merge", "nowhere"], "got no such folder"),
        (["import", "nowhere.csv"], "wanted a file of results"),
        (["ls", "--runs", "nowhere"], "got no such folder"),
    ],
)
def test_what_the_user_can_mend(argv: list[str], says: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, "results", *argv)
    assert code == 2 and not out and says in err and err.count("\n") == 1


def test_figures_that_fit_no_scale(tmp_path: Path) -> None:
    figure = foreign.Figure(checkpoint="a", protocol="knn", dataset="d", metric="top1", value=0.77)
    with pytest.raises(EvaltkError, match="wanted percentages; got no value above 0"):
        list(foreign.results([figure], "them", percent=True))
    with pytest.raises(EvaltkError, match="an interval of fractions; got -17 to 18"):
        list(foreign.results([dataclasses.replace(figure, low=-17.0, high=18.0)], "them", percent=False))
    two = [figure, dataclasses.replace(figure, epoch=1), dataclasses.replace(figure, epoch=2)]
    assert [r.checkpoint["epoch"] for r in foreign.results(two, "them", percent=False)] == [None, 1, 2]


def test_others_names_stay_in_the_folder_and_in_the_line(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.csv").write_text("checkpoint,protocol,dataset,metric,value\n../../=1+1,../../../knn,../d,top1,0.5\n")
    runs = tmp_path / "one" / "runs"
    code, out, _ = said(capsys, "results", "import", tmp_path / "a.csv", "--runs", runs, "--source", "=X")
    (path,) = list(tmp_path.rglob("*.json"))
    assert code == 0 and path.parent.parent == runs and out == f"{path}\n"
    assert said(capsys, "table", "--runs", runs)[0] == 0
    table = said(capsys, "table", "--runs", runs, "--format", "csv", "--rename", "../../=1+1 [=X]==2+2")[1]
    assert table.splitlines()[1].startswith("'=2+2,")  # a spreadsheet shows it and computes nothing
    said(capsys, "results", "export", tmp_path / "b.csv", "--runs", runs)
    assert (
        "\n../../=1+1 [=X],,theirs" in (tmp_path / "b.csv").read_text() and ",'=X," in (tmp_path / "b.csv").read_text()
    )
    path.write_text(path.read_text().replace("../../=1+1", "\\u001b[31m\\ud800").replace('"crc32"', '"crc"'))
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "crc"}))
    for form in ("csv", "jsonl", "parquet"):
        assert said(capsys, "results", "export", tmp_path / f"c.{form}", "--runs", runs)[0] == 0
    out = said(capsys, "results", "ls", "--runs", runs)[1]
    assert out.startswith("\\x1b[31m\\ud800 [=X]")
    path.with_suffix(".failed").write_text(
        json.dumps(dict.fromkeys(("checkpoint", "protocol", "dataset", "message"), "\x1b[2J\n"))
    )
    assert said(capsys, "results", "ls", "--failed", "--runs", runs)[1].count("\\x1b[2J") == 4


def test_others_figures_without_our_settings_are_shown(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.csv").write_text("checkpoint,protocol,dataset,metric,value\na,knn,d,top1,0.5\n")
    said(capsys, "results", "import", tmp_path / "a.csv", "--runs", tmp_path / "runs", "--source", "Paper")
    code, out, _ = said(capsys, "table", "--runs", tmp_path / "runs")
    assert code == 0 and "| a [Paper] |" in out and "50.00" in out


def test_figures_need_a_source(tmp_path: Path) -> None:
    figure = foreign.Figure(checkpoint="a", protocol="knn", dataset="d", metric="top1", value=0.5)
    with pytest.raises(EvaltkError, match="whose figures they are"):
        list(foreign.results([figure], " ", percent=False))
    (loss,) = foreign.results([dataclasses.replace(figure, metric="loss", value=3.5)], "them", percent=True)
    assert loss.scores[0].value == 3.5  # no percentage of anything


def test_what_another_merge_has_just_put_there_is_no_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two merges into one folder at a time: each result is added by one of them, and a duplicate for the other."""
    from evaltk.results import merging

    (path,) = put(tmp_path / "a", made("net"))
    real, target = merging._copied, tmp_path / "runs" / path.relative_to(tmp_path / "a")
    monkeypatch.setattr(merging, "_copied", lambda *at: real(*at) and real(*at))  # the other one is first
    merged = merging.merge([tmp_path / "a"], tmp_path / "runs")
    assert (merged.kept, merged.duplicates, merged.conflicts) == ([], [(target, path)], [])
