"""Mistakes on the command line and in settings: exit 2 and one line below 300 characters, more with --verbose."""

from __future__ import annotations

import random

import pytest

from evaltk import cli
from evaltk.errors import SettingsError, lookalike, nearest

COMMANDS = (
    "run --nope",
    "run",
    "run pixels:8 --data nope",
    "run pixels:8 --data digits --knn.k x",
    "plan --x",
    "inspect",
    "run pixels:8 --data digits --protocols nope",
    "run pixels:8 --data digits --knn.k 0",
    "score nope",
    "score knn",
    "score knn --bank /a --labels /b --queries /c --query-labels /d",
    "score retrieval --ranks /a --gnd /b",
    "score vos --results /a --davis /b",
    "score prototypes --matrix /a.npy",
    "table --runs /nope",
    "table --layout nope",
    "table --format nope",
    "figures --runs /nope",
    "report --runs /nope",
    "fetch nope",
    "convert",
    "convert /a /b",
    "extract",
    "ls nope",
    "cache nope",
    "datasets nope",
    "datasets check imagefolder=/nope",
    "pretrain nope",
    "pretrain",
    "pretrain digits_dino_vmf --set x",
    "pretrain digits_dino_vmf --set optim.epochs=nan",
    "demo --nope",
    "run pixels:8 --data digits --plugin /nope.py",
    "run pixels:8 --data digits --limit 0",
    "nope",
    "run hf:x --data d",
    "run pixels:8 --data digits --pixels nan",
    "run pixels:8 --data digits --knn.temperature=-inf",
    "cache prune --older-than nan",
    "run pixels:8 --data digits --data cifar10=/x",
    "pretrain digits_dino_vmf --set optim.epochs=1 --set=optim.warmup_epochs=0",
)


# What an error must name: the flag that was given, never one that the command does not have.
NAMED = {
    "classes --figure x.nope": "do: --figure x.svg",
    "cache prune --older-than -1": "where: --older-than",
    f"cache ls --cache {__file__}": "wanted the folder of a cache; got a file",
    "demo --epochs 0": "where: --epochs",
    "pretrain digits_dino_vmf --set optim.epochs=-1": "where: --set optim.epochs=-1; do: change it there",
    f"watch {__file__}": "got a file without a line of one",
    f"table --runs {__file__}": "got a file",
}


@pytest.mark.parametrize("command", NAMED)
def test_errors_name_what_was_given(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command.split()) == 2
    err = capsys.readouterr().err
    assert NAMED[command] in err and len(err.splitlines()) == 1 and len(err) <= 300, err


@pytest.mark.parametrize("command", COMMANDS)
def test_one_line_and_exit_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command.split()) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and len(err) <= 300, err
    assert "wanted" in err and "do: " in err


def test_flags_are_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for word in ("run --knn.temp 1", "score knn --bank x", "ls nope", "run pixels:8 --knn.k y"):
        assert cli.main(word.split()) == 2
        said[word] = capsys.readouterr().err
    assert "did you mean --knn.temperature?" in said["run --knn.temp 1"]
    assert "nothing for --labels, --queries, --query-labels" in said["score knn --bank x"]
    assert "'nope'" in said["ls nope"] and "checkpoints" in said["ls nope"]
    assert "--knn.k" in said["run pixels:8 --knn.k y"] and "'y'" in said["run pixels:8 --knn.k y"]


def test_flags_given_twice_are_refused_and_the_advice_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    """The last one would count alone, and nobody be told that the others do not."""
    assert cli.main(["ls", "protocols", "--plugin", "/a.py", "--plugin", "/b.py"]) == 2  # the one that may be
    assert "/a.py" in capsys.readouterr().err
    assert cli.main(["table", "--data", "digits", "--runs", "/nope", "--data=pets"]) == 2
    told, _, advice = capsys.readouterr().err.strip().rpartition("at once: ")
    assert "wanted --data once; got twice" in told and advice == "--data digits pets"
    assert cli.main(["table", "--runs", "/nope", "--digits", "1", "--digits", "2", *advice.split()]) == 2
    assert "wanted a folder of results; got no such folder; where: /nope" in capsys.readouterr().err


def test_no_error_is_longer_than_it_may_be() -> None:
    rng = random.Random(0)

    def text(most: int) -> str:
        words = " ".join("w" * rng.randint(1, 12) for _ in range(rng.randint(1, most)))
        return words + rng.choice(("", "; a; b", " (x; y)", "; there are: " + ", ".join(map(str, range(most)))))

    for _ in range(3000):
        where = rng.choice(("", f"/a/{'b' * rng.randint(1, 400)}", text(9)))
        error = SettingsError(wanted=text(60), got=text(60), where=where, do=rng.choice(("", text(9), text(60))))
        assert len(error.brief()) <= 290
        assert len(str(error)) > 290 or error.brief() == str(error)


def test_verbose_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    known = [f"name{i:03d}" for i in range(100)]
    error = SettingsError(wanted="x", got="y", do=f"{nearest('name1', known)}; or another")
    assert len(error.brief()) <= 290 and error.brief().endswith("(all with --verbose); or another")
    assert "name000" in error.brief() and "name099" not in error.brief() and "name099" in str(error)
    long = SettingsError(wanted="x", got="y " * 450, where="/here", do="z")
    assert len(long.brief()) == 290 and long.brief().endswith(" ...; where: /here; do: z")
    short = SettingsError(wanted="x", got="y", do="z")
    assert short.brief() == str(short)
    advice = SettingsError(wanted="x", got="y" * 150, do=f"a; b (c; d); {'e' * 200}; {'f' * 100}")
    assert advice.brief() == str(advice).partition("; eee")[0] + " (all with --verbose)"
    for flag, lines in ((["-v"], 3), ([], 1)):
        assert cli.main(["table", "--layout", "nope", *flag]) == 2
        err = capsys.readouterr().err
        assert ("paper/table9" in err) == bool(flag) and len(err.splitlines()) >= lines


def test_names_that_look_alike() -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert (
        lookalike([apart], [composed, "tea"])
        == f"'{apart}' (NFD) differs from '{composed}' (NFC) in its Unicode form only"
    )
    assert lookalike(["milk", "Tea"], ["tea"]) == "'Tea' differs from 'tea' in case only"
    assert lookalike(["milk"], ["tea"]) == "" and lookalike(["tea"], ["tea"]) == ""


def test_a_mistyped_flag_is_named_on_a_terminal_too() -> None:
    """There tyro's words have colours."""
    from evaltk import arguments

    red, off = "\x1b[31m", "\x1b[0m"
    text = f"{red}╭─{off} {red}Unrecognized options{off} ─╮\n{red}│{off} --nope {red}│{off}\n╰───╯\n"
    assert arguments._told(text)[0].lstrip() == "--nope"


@pytest.mark.parametrize(
    ("command", "do"),
    [
        (
            "run pixels:8 --data digits --dry-run",
            "do: evaltk plan, with the same arguments, is a dry run; evaltk run --help",
        ),
        ("pretrain digits_dino_vmf --epochs 2", "do: a recipe's settings are changed by --set optim.epochs=N"),
    ],
)
def test_flags_of_other_tools_are_told_what_does_that_here(
    command: str, do: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command.split()) == 2
    assert do in capsys.readouterr().err
