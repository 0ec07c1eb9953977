"""Errors a user can fix. Each one states on one line what was wanted, what was found, where, and what to do."""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterable

MORE = " (all with --verbose)"
SHORT = 60  # characters of what was got that are always shown


class EvaltkError(Exception):
    """Base of all errors a user can fix; the command line prints it on one line and exits with status 2.

    Args:
        wanted: what was expected.
        got: what was found instead.
        where: the file, folder, key or setting concerned.
        do: the next step that fixes it.
    """

    exit_code = 2

    def __init__(self, *, wanted: str, got: str, where: object = "", do: str = "") -> None:
        # Keys and titles come from files; their line breaks and escape codes must not reach a terminal.
        self.wanted, self.got, self.where, self.do = (printable(t) for t in (wanted, got, str(where), do))
        parts = [f"wanted {self.wanted}", f"got {self.got}"]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.do:
            parts.append(f"do: {self.do}")
        super().__init__("; ".join(parts))

    def brief(self, limit: int = 290) -> str:
        """The error in at most `limit` characters where its place allows it: names to choose from are cut, then what
        was got.
        """
        do, got = self.do, self.got
        head, there, names = do.partition("there are: ")
        excess = len(str(self)) - limit
        if excess > 0 and there:
            names, semicolon, after = names.partition("; ")
            listed = names.split(", ")
            kept = listed[: max(3, _fitting(listed, len(names) - excess - len(MORE) - len(" and 1,000 more")))]
            if len(kept) < len(listed):
                do = f"{head}{there}{', '.join(kept)} and {len(listed) - len(kept):,} more{MORE}{semicolon}{after}"
        where = self.where
        excess = len(str(type(self)(wanted=self.wanted, got=got, where=where, do=do))) - limit
        if excess > 0 and len(where) > SHORT and "/" in where and " " not in where:
            where = f"...{where[-max(SHORT, len(where) - excess - 3) :]}"
        excess = len(str(type(self)(wanted=self.wanted, got=got, where=where, do=do))) - limit
        if excess > 0 and len(got) > 2 * SHORT:
            got = f"{got[: max(2 * SHORT, len(got) - excess - 4)]} ..."
        return str(type(self)(wanted=self.wanted, got=got, where=where, do=do))

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes return errors by pickle, which does not support keyword-only arguments.
        return (_rebuild, (type(self), self.wanted, self.got, self.where, self.do))


def _fitting(names: list[str], room: int) -> int:
    """How many of the first names fit into so many characters."""
    ends = itertools.accumulate(len(name) + 2 for name in names)
    return sum(end <= room for end in ends)


def printable(text: str) -> str:
    """`text` on one line: line breaks become spaces, other control characters are escaped (``\\x1b``)."""
    if text.isprintable():  # the usual case, and a thousand times faster for the images embedded in a page
        return text
    blank = re.sub(r"\s*[\r\n\t\f\v]\s*", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in blank)


def _rebuild(kind: type[EvaltkError], wanted: str, got: str, where: str, do: str) -> EvaltkError:
    return kind(wanted=wanted, got=got, where=where, do=do)


class CheckpointError(EvaltkError):
    """A weight file that cannot be used."""


class ModelError(EvaltkError):
    """A net or function in memory that cannot be evaluated."""


class DataError(EvaltkError):
    """A dataset that is missing, incomplete, or not laid out as expected."""


class SettingsError(EvaltkError):
    """A flag or setting that is out of range, or an unknown name."""


class StorageError(EvaltkError):
    """A folder that cannot be written to, a full disk, a corrupt cache or result file."""


class DownloadError(EvaltkError):
    """A download that failed, or whose sha256 is not the recorded one."""


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """A hint with the closest valid names, then all of them: ``"did you mean 'knn'? there are: knn, linear"``."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=limit, cutoff=0.5)
    available = "there are: " + ", ".join(options) if options else "there are none"
    if not close:
        return available
    return "did you mean " + " or ".join(repr(c) for c in close) + "? " + available


def lookalike(names: Iterable[str], known: Iterable[str]) -> str:
    """The first of `names` that a known one differs from in its Unicode form or case alone, in words; empty for none.

    >>> lookalike(["Cat"], ["cat", "dog"])
    "'Cat' differs from 'cat' in case only"
    """
    options = {unicodedata.normalize("NFC", name).casefold(): name for name in known}
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        if (other := options.get(folded)) is not None and other != name:
            if unicodedata.normalize("NFC", name) != unicodedata.normalize("NFC", other):
                return f"{name!r} differs from {other!r} in case only"
            return f"{name!r} ({_form(name)}) differs from {other!r} ({_form(other)}) in its Unicode form only"
    return ""


def _form(name: str) -> str:
    """The Unicode form of a name: NFC (composed), NFD (decomposed, as a Mac writes names) or mixed."""
    forms = [form for form in ("NFC", "NFD") if unicodedata.normalize(form, name) == name]
    return forms[0] if forms else "mixed"


def some(items: list[str], limit: int = 6) -> str:
    """The first `limit` items, and how many more there are: ``"a, b and 3 more"``."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
