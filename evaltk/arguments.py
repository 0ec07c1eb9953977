"""Command lines parsed by tyro, whose errors take one line here: what is wrong, and where help is."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import math
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TypeVar

from evaltk import progress
from evaltk.errors import SettingsError

Options = TypeVar("Options")
MISFIT = "options that fit the command"  # what an error of `parse` wants
REPEATED = {"plugin"}  # takes one value each time
ELSEWHERE = {  # what other tools call it: what does it here
    "--dry-run": "evaltk plan, with the same arguments, is a dry run",
    "--config": "a suite file is named first: evaltk run FILE.toml (docs/suites.md)",
    "--epochs": "a recipe's settings are changed by --set optim.epochs=N, a protocol's by --linear.epochs N",
    "--lr": "a recipe's settings are changed by --set optim.lr=X",
    "--arch": "a net of another kind is passed to evaltk.evaluate in Python; timm:NAME and random:ARCH are names",
}


def parse(
    options: type[Options], argv: Sequence[str], prog: str, doc: str | None, *, default: Options | None = None
) -> Options:
    """The options that the arguments stand for; with --verbose tyro's own words are printed, too.

    Args:
        default: what holds where the arguments say nothing, in place of the defaults of `options`.

    Raises: SettingsError: a flag that is unknown, missing, given twice, or has a value of another kind.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = {} if default is None else {"default": default}
            parsed = tyro.cli(options, args=argv, prog=prog, description=doc, **given)
        _check_once(parsed, argv, prog)
        _check_numbers(parsed, argv, prog)
        return parsed
    except SystemExit as stop:
        if not stop.code:
            raise
        if progress.is_verbose():
            sys.stderr.write(said.getvalue())
        got, hint = _told(said.getvalue())
        do = f"{prog} --help shows the options"
        if other := next((ELSEWHERE[word] for word in got.replace(",", " ").split() if word in ELSEWHERE), ""):
            do = f"{other}; {do}"
        elif hint:
            do = f"did you mean {hint}? {do}"
        raise SettingsError(wanted=MISFIT, got=got, where=prog, do=do) from None


def _check_once(parsed: object, argv: Sequence[str], prog: str) -> None:
    """Of a flag of several values that is given twice tyro takes the last ones, in silence. Raises: SettingsError."""
    words = list(argv[: argv.index("--")] if "--" in argv else argv)
    several = {field for field, value in _fields(parsed) if isinstance(value, tuple)} - REPEATED
    seen: dict[str, int] = {}
    for n, word in enumerate(words):
        flag = word.partition("=")[0].replace("_", "-")
        if not flag.startswith("--") or flag.rpartition(".")[2].lstrip("-").replace("-", "_") not in several:
            continue
        if flag in seen:
            given = [*_values(words[seen[flag] :]), *_values(words[n:])]
            do = f"give all values at once: {flag} {shlex.join(given)}"
            raise SettingsError(wanted=f"{flag} once", got="twice", where=prog, do=do)
        seen[flag] = n


def _values(words: Sequence[str]) -> list[str]:
    """What the first of the words, a flag, is given."""
    _, equals, value = words[0].partition("=")
    rest = itertools.takewhile(lambda word: not word.startswith("--"), words[1:])
    return [value] if equals else list(rest)


def _check_numbers(parsed: object, argv: Sequence[str], prog: str) -> None:
    """No flag takes NaN or infinity, which comparisons with limits let through. Raises: SettingsError."""
    values = [v for _, one in _fields(parsed) for v in (one if isinstance(one, tuple) else (one,))]
    if all(math.isfinite(value) for value in values if isinstance(value, float)):
        return
    flag = prog
    for word in argv:
        name, equals, value = word.partition("=")
        flag = name if word.startswith("--") else flag
        with contextlib.suppress(ValueError):
            if not math.isfinite(float(value if equals else word)):
                raise SettingsError(wanted="a number", got=value or word, where=flag, do="give a finite number")
    raise SettingsError(wanted="numbers", got="NaN or infinity", where=prog, do="give finite numbers")


def _fields(options: object) -> Iterator[tuple[str, object]]:
    """(name, value) of each option, also of those of protocols."""
    for field in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        value = getattr(options, field.name)
        yield field.name, value
        yield from _fields(value)


def _told(text: str) -> tuple[str, str]:
    """(what is wrong, the flag that may have been meant) of what tyro prints: in a box, or below a title in ASCII."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours, which tyro writes wherever stdout is a terminal
    framed = "│" in text
    lines = [re.sub(r"^\s*│ ?| *│\s*$", "", line).rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line.strip() and not re.match(r"\s*[╭╰]", line)]
    lines = textwrap.dedent("\n".join(lines if framed else lines[2:])).splitlines()
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"(─+|-{4,})", line)] or [len(lines)]
    first, rest = lines[: rules[0]], lines[rules[0] :]
    if first and first[0].startswith("Missing from"):
        flags = [line.split()[0] if line.strip().startswith("-") else line.strip() for line in first[1:]]
        named = [word for word in flags if word.startswith("-")]
        what = [line.strip().removesuffix(". (required)") for line in first[1:] if line.startswith(" " * 8)]
        return f"nothing for {', '.join(named) or (what or ['an argument'])[0]}", ""
    hint = next((line.split()[0] for line in rest if re.match(r"\s*--\w", line)), "")
    meant = any(line.startswith("Perhaps you meant") for line in rest)
    got = " ".join(" ".join(first).split()).removesuffix(".")
    near = difflib.get_close_matches(hint, got.split(), n=1, cutoff=0.6) if meant else []
    return got[:1].lower() + got[1:] or "others", hint if near else ""
