"""Help and flags: help fits its page, names every flag, and flags parse whether or not their protocol is named."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import pytest
from command_line import said

import protocols
from evaltk import cli
from evaltk.cli import _flags, _options
from evaltk.cli import score as scores

HELPS = [
    *([name] for name in cli.commands() if name != "score"),
    *(["score", name] for name in scores.subjects()),
    ["run", "--protocols", *protocols.registry()],
]


@pytest.mark.parametrize("argv", HELPS, ids=" ".join)
def test_help_can_be_read(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        code, out, err = said(capsys, *argv, flag)
        assert code == 0 and not err and max(map(len, out.splitlines())) <= 80
        assert "{None}" not in out and "default: None" not in out
        assert all(flag.count("default:") <= 1 for flag in re.split(r"\n {2}(?=\S)|:\n", out))
        assert len(out.splitlines()) < {"run": 82, "plan": 82, "show": 66}.get(argv[0], 60) or "--protocols" in argv
    short = [line for line in out.splitlines() if re.match(r" {2}--\S+(?: \S+)*$", line)]
    for line in short:  # a long flag stands alone, with its text below
        assert out.splitlines()[out.splitlines().index(line) + 1].startswith(" " * 6), line


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    common = said(capsys, "run", "--help")[1]
    named = said(capsys, "run", "--protocols", "knn", "linear", "--help")[1]
    every = said(capsys, "run", "--help", f"--protocols={'knn'}", "--protocols", *protocols.registry())[1]
    for option in dataclasses.fields(_flags.Options):
        dashed = "--" + option.name.replace("_", "-")
        assert dashed in common or option.name == "checkpoints"
    for name, module in protocols.registry().items():
        for setting in dataclasses.fields(module.settings):
            flag = f"--{name}.{'[no-]' if setting.default is True else ''}{setting.name.replace('_', '-')}"
            for shown, text in ((True, every), (name in ("knn", "linear"), named), (False, common)):
                assert bool(re.search(rf"^ +{re.escape(flag)}( |$)", text, re.MULTILINE)) is shown, flag
    assert "evaltk run --protocols NAME --help" in common


def test_flags_parse_whether_or_not_their_protocol_is_named() -> None:
    argv = "a.pth --data digits --knn.k 3 --linear.fast --prototypes.no-centre --transfer.mode holdout --limit 9"
    options = _flags.parse(argv.split(), "run", None)
    assert options.knn_settings.k == (3,) and options.linear_settings.fast and not options.prototypes_settings.centre
    assert options.transfer_settings.mode == "holdout" and _flags.plan_of(options).limit == 9
    assert options.device == "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Odd:
    """Options of all kinds.

    Attributes:
        low: of a sweep. high: of a sweep,
            and more.
        kind: a choice.
        on: a switch. off: another.
        both: two things. pair: two numbers.
    """

    low: float = 0.5
    high: int | None = None
    kind: Literal["an-uncommonly-long-name", "another"] = "another"
    on: bool = True
    off: bool = False
    both: int | Literal["auto"] = "auto"
    pair: tuple[float, float] | None = None


def test_help_of_all_kinds() -> None:
    lines = _options.usage(Odd, "odd", "Does it.\n\nExamples:\n    evaltk odd\n").splitlines()
    assert lines[:4] == ["usage: evaltk odd [options]", "", "Does it.", ""] and lines[-1] == "  evaltk odd"
    for line in (
        "  --low X                  of a sweep (default: 0.5)",
        "  --high N                 of a sweep, and more",
        "  --kind NAME              a choice: an-uncommonly-long-name, another (default:",
        "  --[no-]on                a switch (default: on)",
        "  --off                    another",
        "  --both N|auto            two things (default: auto)",
        "  --pair X X               two numbers",
    ):
        assert line in lines
