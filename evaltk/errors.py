"""What a user can mend: every such error says in one line what was wanted, what came, where, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class EvaltkError(Exception):
    """Base of all errors a user can mend; the command line prints it as one line and exits with 2.

    Args:
        wanted: what would have been right.
        got: what came instead.
        where: file, folder, key or setting concerned.
        do: the next step that mends it.
    """

    exit_code = 2

    def __init__(self, *, wanted: str, got: str, where: object = "", do: str = "") -> None:
        # Keys and titles come out of files: a line break or an escape code in them must not reach a terminal.
        self.wanted, self.got, self.where, self.do = (printable(t) for t in (wanted, got, str(where), do))
        parts = [f"wanted {self.wanted}", f"got {self.got}"]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.do:
            parts.append(f"do: {self.do}")
        super().__init__("; ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes hand errors over by pickle, which does not know keyword-only arguments.
        return (_rebuild, (type(self), self.wanted, self.got, self.where, self.do))


def printable(text: str) -> str:
    """`text` on one line: breaks become blanks, other control characters are spelled out (``\\x1b``)."""
    if text.isprintable():  # the usual case, and a thousand times faster for a page's images
        return text
    blank = re.sub(r"\s*[\r\n\t\f\v]\s*", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in blank)


def _rebuild(kind: type[EvaltkError], wanted: str, got: str, where: str, do: str) -> EvaltkError:
    return kind(wanted=wanted, got=got, where=where, do=do)


class CheckpointError(EvaltkError):
    """A weight file that cannot be used as it is."""


class DataError(EvaltkError):
    """A data set that is missing, incomplete, or laid out otherwise than expected."""


class SettingsError(EvaltkError):
    """A flag, setting or name that is out of range or unknown."""


class StorageError(EvaltkError):
    """A folder that cannot be written, a full disk, a damaged cache or result file."""


class DownloadError(EvaltkError):
    """A download that failed, or whose bytes are not what was recorded."""


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """The known names closest to `name`, then all of them: ``"did you mean 'knn'? there are: knn, linear"``."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=limit, cutoff=0.5)
    there = "there are: " + ", ".join(options) if options else "there are none"
    if not close:
        return there
    return "did you mean " + " or ".join(repr(c) for c in close) + "? " + there


def some(items: list[str], limit: int = 6) -> str:
    """The first items in a line, and how many more there are."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
