"""docs/data.md runs as it stands: its files are written, its Python executed, its commands carried out."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from evaltk import cli, plugins, results

pytest.importorskip("pyarrow")

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
STEPS = re.compile(r"^```(csv|python)(?: (\S+))?\n(.*?)^```|^    (evaltk [^\n]*)$", re.MULTILINE | re.DOTALL)


def test_the_document_runs(
    image_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image_tree({"cat": 4, "dog": 4}, name="photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    names: dict[str, object] = {}
    commands = 0
    for kind, name, text, command in STEPS.findall(DOCUMENT.read_text(encoding="utf-8")):
        if command:
            assert cli.main(shlex.split(command, comments=True)[1:]) == 0, (command, capsys.readouterr().err)
            commands += 1
        elif name:
            Path(name).write_text(text, encoding="utf-8")
        else:
            assert kind == "python"
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(compile(text, str(DOCUMENT), "exec"), names)
            shown = re.findall(r"print\(.*\)  # (.*)", text)
            assert said.getvalue().splitlines() == shown
    plugins.use(())
    assert commands == 7
    found = [result for _, result in results.find(tmp_path / "runs")]
    assert [result.data.name for result in found] == ["animals"] * 5
    # The table, and the shards, hold the same images in the same splits.
    scores = [[s.value for s in result.scores] for result in found if not result.deviations]
    assert len(scores) == 2 and scores[0] == scores[1]
