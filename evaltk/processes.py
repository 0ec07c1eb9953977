"""How commands and their worker processes end: signals become exceptions, and workers do not outlive their parent."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # what schedulers send before they end a job
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
STOPPING = (*ENDING, signal.SIGINT)
REQUEUE = 75  # EX_TEMPFAIL: a training stopped by a signal; the same command resumes
AGAIN = 1.0  # seconds within which a signal that comes again is the same one: `timeout` sends each twice
LOOK = 1.0  # seconds between two looks for the parent


class Ended(BaseException):
    """A signal asked the command to end; as KeyboardInterrupt, nothing but the command line catches it.

    Args:
        exit_code: 128 + n by default. kept: what is kept and how to go on, where the command line cannot know.
    """

    def __init__(self, number: int, *, exit_code: int | None = None, kept: str = "") -> None:
        super().__init__(number)
        self.name, self.kept = signal.Signals(number).name, kept
        self.exit_code = 128 + number if exit_code is None else exit_code


class _Ending:
    """The handler of `ended_by_signals`."""

    since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.since:
            self.since = now
            raise Ended(number)
        if now - self.since > AGAIN:  # a second signal ends the process at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block the signals in `ENDING` raise `Ended`, unless they are ignored (nohup) or handled already.

    Outside the main thread handlers cannot be set: none is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    handler = _Ending()
    for number in mine:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def ignore_at_exit() -> None:
    """Let a stop signal that comes while Python itself ends leave the exit code: by then all work is done."""
    atexit.unregister(_ignore)
    atexit.register(_ignore)


def _ignore() -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def start_worker(worker: int = 0) -> None:
    """Set up a worker process: it ends when its parent has died, even by SIGKILL, and leaves Ctrl-C to its parent.

    Without this a worker whose parent was killed waits for ever for a reader of what it made.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(os.getppid(), multiprocessing.parent_process()), daemon=True).start()


def _watch(parent: int, process: multiprocessing.process.BaseProcess | None) -> None:
    # Under forkserver the parent in the system's sense is the server.
    while os.getppid() == parent and (process is None or process.is_alive()):
        time.sleep(LOOK)
    os._exit(1)
