"""Command lines parsed by tyro, whose errors take one line here: what is wrong, and where help is."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TypeVar

from evaltk import progress
from evaltk.errors import SettingsError

Options = TypeVar("Options")
MISFIT = "options that fit the command"  # what an error of `parse` wants
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

    Raises: SettingsError: a flag that is unknown, missing, or has a value of another kind.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = {} if default is None else {"default": default}
            return tyro.cli(options, args=argv, prog=prog, description=doc, **given)
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
