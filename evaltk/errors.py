"""Errors a user can fix. Each one states on one line what was wanted, what was found, where, and what to do."""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterable

MORE = " (all with --verbose)"
SHORT = 60  # characters of what was got that are always shown
NAME = 255  # characters of a file's name at most


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
        self.wanted, self.got, self.where, self.do = (
            _no_endless_word(printable(t)) for t in (wanted, got, str(where), do)
        )
        parts = [f"wanted {self.wanted}", f"got {self.got}"]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.do:
            parts.append(f"do: {self.do}")
        super().__init__("; ".join(parts))

    def brief(self, limit: int = 290) -> str:
        """The error in at most `limit` characters. What is missed least is cut first: names to choose from, the folders
        of a path, further advice where that is enough, what was got, and only then the rest.
        """
        short = self
        for cut in (_fewer_names, _shorter_path, _enough_advice, _shorter_got, _first_advice, _shorter_everything):
            excess = len(str(short)) - limit
            if excess > 0:
                short = cut(short, excess)
        return str(short)

    def _with(self, **parts: str) -> EvaltkError:
        return EvaltkError(**{"wanted": self.wanted, "got": self.got, "where": self.where, "do": self.do} | parts)

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes return errors by pickle, which does not support keyword-only arguments.
        return (_rebuild, (type(self), self.wanted, self.got, self.where, self.do))


def _fewer_names(error: EvaltkError, excess: int) -> EvaltkError:
    """The first of the names that `do` gives to choose from, at least three."""
    head, there, names = error.do.partition("there are: ")
    names, semicolon, after = names.partition("; ")
    listed = names.split(", ") if there else []
    room = len(names) - excess - len(MORE) - len(" and 1,000 more")
    kept = listed[: max(3, sum(end <= room for end in itertools.accumulate(len(name) + 2 for name in listed)))]
    if len(kept) == len(listed):
        return error
    more = f"{', '.join(kept)} and {len(listed) - len(kept):,} more{MORE}"
    return error._with(do=f"{head}{there}{more}{semicolon}{after}")


def _shorter_path(error: EvaltkError, excess: int) -> EvaltkError:
    """The end of a long path."""
    if len(error.where) <= SHORT or "/" not in error.where or " " in error.where:
        return error
    return error._with(where=f"...{error.where[-max(SHORT, len(error.where) - excess - 3) :]}")


def _shorter_got(error: EvaltkError, excess: int) -> EvaltkError:
    """The beginning of what was got."""
    if len(error.got) <= 2 * SHORT:
        return error
    return error._with(got=f"{error.got[: max(2 * SHORT, len(error.got) - excess - 4)]} ...")


def _enough_advice(error: EvaltkError, excess: int) -> EvaltkError:
    """`do` without its last clauses, where it fits then."""
    shorter = _first_advice(error, excess)
    return shorter if len(str(error)) - len(str(shorter)) >= excess else error


def _first_advice(error: EvaltkError, excess: int) -> EvaltkError:
    """`do` without its last clauses."""
    clauses = re.split(r"(; (?![^(]*\)))", error.do.removesuffix(MORE))
    ends = [len("".join(clauses[:i])) for i in range(1, len(clauses), 2)]
    room = len(error.do) - excess - len(MORE)
    fitting = [end for end in ends if end <= room] or ends[:1]
    return error._with(do=error.do[: fitting[-1]] + MORE) if fitting else error


def _shorter_everything(error: EvaltkError, excess: int) -> EvaltkError:
    """The beginnings of got, of what was wanted, of the place and of the advice, in that order, until it fits."""
    for part in ("got", "wanted", "where", "do"):
        text = getattr(error, part)
        kept = max(SHORT, len(text) - excess - 4)
        if excess > 0 and kept + 4 < len(text):
            excess -= len(text) - kept - 4
            error = error._with(**{part: f"{text[:kept]} ..."})
    return error


def printable(text: str) -> str:
    """`text` on one line: line breaks become spaces, other control characters are escaped (``\\x1b``)."""
    if text.isprintable():  # the usual case, and a thousand times faster for the images embedded in a page
        return text
    blank = re.sub(r"\s*[\r\n\t\f\v]\s*", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in blank)


def _no_endless_word(text: str) -> str:
    """`text` with words cut that are longer than a name can be on any file system (255), as damaged files hold them."""
    return text if len(text) <= NAME else re.sub(rf"[^\s/]{{{NAME + 1},}}", lambda m: f"{m[0][:SHORT]}...", text)


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


class RunError(EvaltkError):
    """A job of a cluster that ended without what it was to make."""


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
    """The first of `names` that a known one differs from in Unicode form, spaces or case alone, in words; "" for none.

    >>> lookalike(["Cat"], ["cat", "dog"])
    "'Cat' differs from 'cat' in case only"
    """
    options = {written(name).casefold(): name for name in known}
    for name in names:
        if (other := options.get(written(name).casefold())) is not None and other != name:
            if written(name) != written(other):
                return f"{name!r} differs from {other!r} in case only"
            if unicodedata.normalize("NFC", name) != unicodedata.normalize("NFC", other):
                return f"{name!r} differs from {other!r} in spaces only"
            return f"{name!r} ({_form(name)}) differs from {other!r} ({_form(other)}) in its Unicode form only"
    return ""


def written(name: str) -> str:
    """The name as a reader sees it: in one Unicode form, spaces at its ends or several in a row left out."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def twins(names: Iterable[str], *, case: bool = False) -> list[tuple[str, str]]:
    """Pairs of different names that a reader takes for one (see `written`); case: also where case tells them apart."""
    seen: dict[str, str] = {}
    folded = [(written(name).casefold() if case else written(name), name) for name in names]
    return [(other, name) for key, name in folded if (other := seen.setdefault(key, name)) != name]


def _form(name: str) -> str:
    """The Unicode form of a name: NFC (composed), NFD (decomposed, as a Mac writes names) or mixed."""
    forms = [form for form in ("NFC", "NFD") if unicodedata.normalize(form, name) == name]
    return forms[0] if forms else "mixed"


def some(items: list[str], limit: int = 6) -> str:
    """The first `limit` items, and how many more there are: ``"a, b and 3 more"``."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
