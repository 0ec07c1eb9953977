"""Training runs from their logs: in a terminal, on a page, as figures."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaltk import durations
from evaltk.cli import main, watch
from reports.figures import training
from reports.training import logs, page, terminal

NOW = 1_800_000_000


def run(folder: Path, *, epochs: int = 4, per_epoch: int = 10, until: int | None = None, **more: Any) -> Path:
    """A log of a line every second step, the last without a loss; `until`: it ends before that step."""
    total = epochs * per_epoch
    lines: list[dict[str, Any]] = []
    for step in range(0, total, 2):
        line = {"step": step, "epoch": step // per_epoch, "loss": 6 - step / 10, "teacher_entropy": 3 + step / 100}
        line |= {"log_k": math.log(64), "won_share": step / total, "kappa_min": 10, "kappa_median": 20 + step}
        line |= {"kappa_max": 90, "images_per_second": 500.0, "seconds_left": 2.0 * (total - step), "alarms": []}
        line |= {"steps": total, "epochs": epochs, "time": NOW - 60 + step}
        if step % 10 == 0:
            line |= {"knn": step / 100, "unique_prototypes": 64 - step, "largest_duplicate_set": 1 + step}
            line |= {"feature_rank": 9.5}
        lines.append(line)
    lines.append({"step": total, "epoch": epochs, "log_k": math.log(64), "knn": 0.5, "alarms": [], "time": NOW} | more)
    kept = [line for line in lines if until is None or line["step"] < until]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    return folder


def add(folder: Path, *lines: dict[str, Any] | str) -> None:
    with (folder / "log.jsonl").open("a") as stream:
        stream.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


SKIPPED = {"step": 7, "epoch": 0, "event": "skipped", "what": "NaN in the loss", "images": ["a.png", "b.png", "c.png"]}
BACK = {"step": 5, "epoch": 0, "event": "rolled back", "what": "NaN in x", "images": [], "diverged_at": 9}


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = logs.read(run(tmp_path / "one"))
    assert (log.name, log.step, log.prototypes, log.per_epoch, log.finished) == ("one", 40, 64, 10.0, True)
    x, y = log.curve("loss")
    assert x == pytest.approx(np.arange(20) / 5) and y == pytest.approx(6 - np.arange(20) / 5)
    assert log.latest("knn") == 0.5 and log.latest("nothing") is None
    assert log.used({"won_share": 0.25}) == 16 and log.used({"prototypes_used": 7, "won_share": 1.0}) == 7
    add(tmp_path / "one", SKIPPED, BACK, "torn", '{"step": 1e999, "epoch": 0}', "[1]", '{"step": "x"}')
    log = logs.read(tmp_path / "one" / "log.jsonl")
    assert len(log.lines) == 21 and log.alarms() == [
        "step 9: rolled back to step 5, NaN in x",
        "step 7: skipped, NaN in the loss; images a.png, b.png and 1 more",
    ]
    assert logs.under(tmp_path).keys() == {"one"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "log.jsonl").write_text("")
    assert logs.under(tmp_path).keys() == {"one"}


def test_each_alarm_is_told_once_when_it_came(tmp_path: Path) -> None:
    folder = run(tmp_path / "r", until=6)
    text = "collapse: the teacher is uniform (entropy {} of ln K = 4.159)"
    for step in (6, 8):
        add(folder, {"step": step, "epoch": 0, "loss": 4.1, "alarms": [text.format(round(4.15 + step / 1000, 3))]})
    assert logs.read(folder).alarms() == [f"step 6: {text.format(4.156)}"]


@pytest.mark.parametrize(
    ("lock", "more", "until", "said"),
    [
        ("", (), None, "finished"),
        ("", (), 20, "stopped"),
        ("process MINE on HERE\n", (), 20, "running"),
        ("process 4194311 on HERE\n", (), 20, "stopped"),  # killed: its lock is left
        ("process 12 on another-machine\n", (), 20, "running"),  # its last line is a minute old
        ("", ({"step": 20, "epoch": 2, "event": "diverged", "what": "NaN"},), 20, "diverged"),
        ("", (SKIPPED,), 20, "stopped"),
        ("", ({"step": 18, "epoch": 1, "event": "collapsed", "what": "x"},), 20, "collapsed"),
    ],
)
def test_the_state_of_a_run(tmp_path: Path, lock: str, more: Any, until: int | None, said: str) -> None:
    folder = run(tmp_path / "r", until=until)
    add(folder, *more)
    if lock:
        (folder / ".lock").write_text(lock.replace("MINE", str(os.getpid())).replace("HERE", platform.node()))
    assert watch.state(logs.read(folder), now=NOW + 30) == said
    if "another" in lock:
        assert watch.state(logs.read(folder), now=NOW + 3600) == "stopped"


def test_the_view_in_a_terminal(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one", until=22), run(tmp_path / "two", epochs=2)
    add(one, SKIPPED)
    runs = {"one": logs.read(one), "two": logs.read(two)}
    text = terminal.text(runs, {"one": "running", "two": "finished"}, width=100)
    rows = {row.partition("│")[0].strip(): row.partition("│")[2] for row in text.splitlines() if "│" in row}
    assert "20 of 40 (50 %)" in rows["step"] and "20 of 20 (100 %)" in rows["step"]
    assert "2 of 4" in rows["epoch"] and rows["time left"].split("│")[0].strip() == "40 s"
    assert "4.0000" in rows["loss"] and "3.200 of 4.16" in rows["teacher entropy"]
    assert (
        "32 of 64" in rows["prototypes used"] and "44 of 64" in rows["unique"] and "21" in rows["largest duplicate set"]
    )
    assert "40" in rows["median kappa"] and "20.0 %" in rows["k-NN"] and "50.0 %" in rows["k-NN"]
    assert "step 7: skipped, NaN in the loss; images a.png, b.png and 1 more" in text
    assert max(len(row) for row in text.splitlines()) <= 100


def test_sparklines() -> None:
    assert terminal.sparkline(np.array([0.0, 1.0])) == "▁█" and terminal.sparkline(np.array([3.0])) == ""
    assert terminal.sparkline(np.array([2.0, 2.0, 2.0])) == "▁▁▁"
    long = terminal.sparkline(np.arange(1000.0))
    assert len(long) == terminal.LENGTH and list(long) == sorted(long)


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (3600, "1 h 0 min")])
def test_spans_in_words(seconds: float, said: str) -> None:
    assert durations.in_words(seconds) == said


def test_figures_show_what_the_log_holds(tmp_path: Path) -> None:
    runs = {name: logs.read(run(tmp_path / name)) for name in ("one", "two")}
    drawn = {one.name: one.figure for one in training.of_logs(runs)}
    assert list(drawn) == ["training-compared", "training-one", "training-two"]
    panels = drawn["training-one"].axes
    curves = {str(c.get_label()): np.asarray(c.get_ydata()) for panel in panels for c in panel.lines}
    assert curves["loss"] == pytest.approx(6 - np.arange(20) / 5) and curves["unique"][-1] == 34
    assert curves["used"] == pytest.approx(64 * np.arange(20) / 20) and curves["ln K"][0] == pytest.approx(math.log(64))
    assert curves["k-NN"][-1] == 50.0 and [p.get_xlabel() for p in panels] == ["epoch"] * 6
    compared = drawn["training-compared"].axes
    assert all([str(c.get_label()) for c in panel.lines] == ["one", "two"] for panel in compared)
    only = logs.read(run(tmp_path / "bare", until=1))
    add(only.folder, SKIPPED)
    (figure,) = (one.figure for one in training.of_logs({"bare": logs.read(only.folder)}))
    assert any("skipped" in panel.get_legend_handles_labels()[1] for panel in figure.axes)


def test_the_page_stands_alone(tmp_path: Path) -> None:
    folder = run(tmp_path / "r<b>", until=22)
    add(folder, SKIPPED | {"what": "<script>alert(1)</script>"})
    runs = {"r<b>": logs.read(folder)}
    text = page.build_page(runs, {"r<b>": "running"}, told="now")
    assert '<meta http-equiv="refresh" content="30">' in text
    assert "refresh" not in page.build_page(runs, {"r<b>": "stopped"}, told="now")
    assert "<script" not in text and "&lt;script&gt;" in text and "r&lt;b&gt;" in text
    assert not re.search(r"""(src|href)=["'](?!#)""", text) and "style=" not in text
    (svg,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert ET.fromstring(svg).attrib["role"] == "img"
    assert "20 of 40 (50 %)" in text and "32 of 64" in text


def test_watch_and_figures_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "runs" / "one")
    run(tmp_path / "runs" / "two", until=12)
    html = tmp_path / "page.html"
    assert main(["watch", str(tmp_path / "runs"), "--html", str(html)]) == 0
    out = capsys.readouterr().out
    assert "one" in out and "two" in out and "stopped" in out and str(html) in out and html.exists()
    assert main(["watch", str(tmp_path / "runs" / "one" / "log.jsonl"), "--once"]) == 0
    assert "finished" in capsys.readouterr().out
    for wrong, said in ((["watch"], "runs to watch"), (["watch", str(tmp_path / "no")], "log.jsonl"),
                        (["watch", str(tmp_path), "--every", "0"], "--every")):  # fmt: skip
        assert main(wrong) == 2 and said in capsys.readouterr().err
    argv = ["figures", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "f"), "--format", "svg", "--no-theory"]
    assert main(argv) == 0
    made = sorted(path.name for path in (tmp_path / "f").iterdir())
    assert made == ["prototypes-course.svg", "training-compared.svg", "training-one.svg", "training-two.svg"]


def test_watching_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from evaltk.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "watch", str(run(tmp_path / "r")), "--html", str(tmp_path / "p.html")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
