"""What the documents show is real: commands have the flags they show, the tutorial runs, links lead somewhere.

Commands and Python blocks are executed by tests/evaltk/test_documents_run.py; those of docs/python.md, data.md and
extending.md by tests of their own, in the default run.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaltk import arguments, cli
from evaltk.checkpoints import locate
from evaltk.errors import EvaltkError

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(?=(?:evaltk|torchrun) )((?:.*\\\n)*.*)$", re.MULTILINE)


class ParsedError(BaseException):
    """The options were understood; nothing is run."""


def commands(path: Path) -> Iterator[str]:
    """The evaltk and pretrain commands in the blocks of a document, one a line."""
    text = path.read_text(encoding="utf-8")
    blocks = [body for language, body in FENCED.findall(text) if language in ("", "sh", "bash")]
    for block in [*blocks, *INDENTED.findall(text)]:
        for line in block.replace("\\\n", " ").splitlines():
            words = line.strip()
            if match := re.search(r"torchrun .*?-m (evaltk|pretrain) (.*)", words):
                words = f"evaltk {'' if match[1] == 'evaltk' else 'pretrain '}{match[2]}"
            if words.startswith("evaltk "):
                yield words


SHOWN = [(path, line) for path in DOCUMENTS for line in commands(path)]


SUITE = 'version = 1\ncheckpoints = ["pixels:8"]\n[[data]]\nname = "digits"\n[[protocols]]\nname = "knn"\n'


@pytest.mark.documents
def test_commands_have_the_flags_that_documents_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is parsed by the command's own options."""
    (tmp_path / "suite.toml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    real: Callable[..., Any] = arguments.parse

    def parse(*given: Any, **named: Any) -> None:
        real(*given, **named)
        raise ParsedError

    monkeypatch.setattr(arguments, "parse", parse)
    monkeypatch.setattr(locate, "check_first", lambda argv: None)
    parsed = 0
    for path, line in SHOWN:
        words = [word for word in shlex.split(line.partition(" > ")[0], comments=True)[1:] if word not in "&;|"]
        if "..." in line or "--plugin" in words or any("`" in word for word in words):
            continue
        name, *rest = [word for word in words if word not in ("-q", "-v", "--quiet", "--verbose")]
        assert name in cli.commands(), (path.name, line)
        try:
            importlib.import_module(f"evaltk.cli.{name}").main(rest)
        except ParsedError:
            parsed += 1
        except EvaltkError as error:
            pytest.fail(f"{path.name}: {line}: {error}")
    assert parsed > 60


def test_every_page_is_in_the_sites_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in listed] == []


def table_rows(path: Path) -> list[list[str]]:
    """The cells of the tables of a document, without their heads."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [n for n, line in enumerate(lines) if line.startswith("|") and not line.startswith("|---")]
    bodies = [n for n in rows if not lines[n + 1 : n + 2] or not lines[n + 1].startswith("|---")]
    return [[cell.strip() for cell in lines[n].strip("|").split("|")] for n in bodies]


def test_pages_of_families_say_what_the_table_of_all_says() -> None:
    known = {cell for row in table_rows(ROOT / "docs" / "checkpoints.md") for cell in row}
    for path in (ROOT / "docs" / "families").glob("*.md"):
        assert [row for row in table_rows(path) if not set(row[1:]) <= known] == [], path.name


def test_links_lead_to_files() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (path.parent / target).exists(), (path.name, target)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.documents
def test_the_tutorial_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All its commands, in order; numbers it shows are those that come."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    ran, out = 0, ""
    for language, body in FENCED.findall(text):
        if language == "":
            for line in body.splitlines():
                assert cli.main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
                out = capsys.readouterr().out
                ran += 1
        elif language == "python":
            exec(compile(body, "tutorial.md", "exec"), {})
            ran += 1
        elif "pixels:8 " in body:
            (shown,) = [line for line in body.splitlines() if line.startswith("pixels:8 ")]
            (came,) = [line for line in out.splitlines() if line.startswith("| pixels:8 ")]
            numbers = re.findall(r"\d+\.\d\d", shown)
            assert numbers and set(numbers) <= set(re.findall(r"\d+\.\d\d", came))
    assert ran == 8 and (workplace / "report.html").stat().st_size > 100_000


@pytest.mark.documents
def test_the_notebook_runs(workplace: Path) -> None:
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook.ipynb", "exec"), names)
    assert names["features"].x.shape == (797, 64) and len(names["everything"]) == 1
