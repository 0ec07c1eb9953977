"""Progress, log messages and how many of them are shown. All go to stderr; stdout is for results.

A terminal shows a line in place; elsewhere (a batch job, a file) a plain line comes every half minute. Log messages
take the place of the line, which is drawn again below them.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from evaltk.durations import in_words
from evaltk.errors import EvaltkError, SettingsError, printable

Advance = Callable[[int], None]
log = logging.getLogger("evaltk")

QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")
DRAWN_EVERY = 0.1  # seconds between two drawings in a terminal
SAID_EVERY = 30.0  # seconds between two lines elsewhere
SHORT = {"images": "img", "bytes": "B"}
_ABOUT: ContextVar[str] = ContextVar("about", default="")


class _Printable(logging.Formatter):
    """Messages hold names of files and classes, whose control characters must not reach a terminal.

    Errors in them are as brief as where one ends a command.
    """

    def format(self, record: logging.LogRecord) -> str:
        args = record.args
        if isinstance(args, tuple) and not is_verbose():
            rest = sum(len(str(a)) for a in (record.msg, *args) if not isinstance(a, EvaltkError))
            room = max(200, 290 - rest)
            record = copy.copy(record)
            record.args = tuple(a.brief(room) if isinstance(a, EvaltkError) else a for a in args)
        return "\n".join(map(printable, super().format(record).split("\n")))


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Messages on stderr. `line`: what stands in the terminal's last line and is drawn again below a message."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.line = ""

    def emit(self, record: logging.LogRecord) -> None:
        if self.line:
            self._write("\r\x1b[K")
        super().emit(record)
        if self.line:
            self._write(self.line)

    def draw(self, text: str) -> None:
        """Show a text in the last line, or nothing."""
        if text or self.line:
            self.line = text[: shutil.get_terminal_size((80, 24)).columns - 1]
            self._write(f"\r\x1b[K{self.line}")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def configure(*, quiet: bool = False, verbose: bool = False) -> None:
    """Send the project's log messages to stderr; called once by the command line, never at import.

    Args:
        quiet: errors only, and no progress.
        verbose: debug messages too, each with the seconds since the start and the file it comes from.
    """
    handler = _Handler()
    where = " %(relativeCreated)d ms %(module)s" if verbose else ""
    handler.setFormatter(_Printable(f"evaltk{where}: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def configured(argv: Sequence[str]) -> list[str]:
    """Configure by ``-q``/``--quiet`` and ``-v``/``--verbose``, wherever they stand; returns the other arguments.

    Raises: SettingsError: both.
    """
    quiet, verbose = (any(word in flags for word in argv) for flags in (QUIET, VERBOSE))
    configure(quiet=quiet and not verbose, verbose=verbose)
    if quiet and verbose:
        raise SettingsError(
            wanted="--quiet or --verbose", got="both", where="the command line", do="leave one of them out"
        )
    return [word for word in argv if word not in (*QUIET, *VERBOSE)]


def is_verbose() -> bool:
    """Whether ``--verbose`` was given."""
    return log.isEnabledFor(logging.DEBUG)


@contextmanager
def about(text: str) -> Iterator[None]:
    """Inside, progress begins with this text: ``[2/6] dino_vits16``."""
    token = _ABOUT.set(text)
    try:
        yield
    finally:
        _ABOUT.reset(token)


@contextmanager
def status(text: str) -> Iterator[None]:
    """Say what is being done that has no rate (loading torch); shown in a terminal alone, and gone afterwards."""
    handler = _terminal()
    if handler is None:
        yield
        return
    handler.draw(_titled(text))
    try:
        yield
    finally:
        handler.draw("")


@contextmanager
def bar(
    title: str, total: int, *, done: int = 0, unit: str = "images", pace: Callable[[], float | None] | None = None
) -> Iterator[Advance]:
    """Progress with the rate and the time left; yields `advance(n)`. Silent with --quiet.

    Under torchrun the first process alone speaks.

    Args:
        total: number of items, 0 if it is not known.
        done: items finished by an earlier run; they count as done, but not towards the rate.
        pace: tries out how many items a second there will be; asked in a terminal alone, shown until the first advance.
    """
    if not log.isEnabledFor(logging.INFO) or not _first():
        yield lambda n: None
        return
    handler, now = _terminal(), time.monotonic()
    state = _State(title=_titled(title), total=total, done=done, count=done, unit=unit, begun=now, said=now)
    if handler is not None:
        handler.draw(state.text(now))
        if pace is not None and (expected := pace()):
            state.begun = time.monotonic()
            handler.draw(state.paced(expected, about="about "))

    def advance(n: int) -> None:
        state.count += n
        now = time.monotonic()
        if now - state.said < (SAID_EVERY if handler is None else DRAWN_EVERY):
            return
        state.said = now
        if handler is None:
            log.info("%s", state.text(now))
        else:
            handler.draw(state.text(now))

    try:
        yield advance
        if time.monotonic() - state.begun >= SAID_EVERY:  # what took long leaves a line
            log.info("%s", state.ended(time.monotonic()))
    finally:
        if handler is not None:
            handler.draw("")


@dataclass(slots=True, kw_only=True)
class _State:
    """How far a bar is. `count`: items done. `begun`, `said`: when it began, and was last shown (monotonic seconds)."""

    title: str
    total: int
    done: int
    count: int
    unit: str
    begun: float
    said: float

    def text(self, now: float) -> str:
        """``model · dataset/split 640/2,000 · 31 img/s · 0:44 left``."""
        own, seconds = self.count - self.done, now - self.begun
        return self.paced(own / seconds if own > 0 and seconds > 0 else 0.0)

    def paced(self, rate: float, *, about: str = "") -> str:
        """As `text`, at `rate` items a second; 0: not known."""
        if self.unit == "bytes":
            amount = f"{_size(self.count)}/{_size(self.total)}" if self.total else _size(self.count)
        else:
            amount = f"{self.count:,}/{self.total:,}" if self.total else f"{self.count:,}"
        if not rate:
            return f"{self.title} {amount}"
        left = [f"{about}{_clock((self.total - self.count) / rate)} left"] if self.total > self.count else []
        return " · ".join([f"{self.title} {amount}", about + _rate(rate, self.unit), *left])

    def ended(self, now: float) -> str:
        """``model · dataset/split 2,000 images in 1:04, 31 img/s``."""
        own, seconds = self.count - self.done, now - self.begun
        amount = _size(own) if self.unit == "bytes" else f"{own:,} {self.unit}"
        return f"{self.title}: {amount} in {_clock(seconds)}, {_rate(max(own, 1) / seconds, self.unit)}"


def _titled(title: str) -> str:
    return printable(" · ".join(part for part in (_ABOUT.get(), title) if part))


def _first() -> bool:
    return os.environ.get("RANK", "").strip() in ("", "0")


def _terminal() -> _Handler | None:
    """The handler that can draw a line; None where stderr is no terminal, or nothing is to be shown."""
    handler = next((one for one in log.handlers if isinstance(one, _Handler)), None)
    if handler is None or not (log.isEnabledFor(logging.INFO) and _first() and os.environ.get("TERM") != "dumb"):
        return None
    return handler if handler.stream.isatty() else None


def _rate(rate: float, unit: str) -> str:
    short = SHORT.get(unit, unit.removesuffix("s"))
    if unit == "bytes":
        return f"{_size(rate)}/s"
    if rate < 0.5:
        return f"{in_words(1 / rate) if rate < 1 / 120 else f'{1 / rate:.1f} s'} per {unit.removesuffix('s')}"
    return f"{rate:,.0f} {short}/s" if rate >= 10 else f"{rate:.1f} {short}/s"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _clock(seconds: float) -> str:
    """``0:44``, ``1:05:10``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
