"""How commands and their worker processes end: signals become exceptions, and workers do not outlive their parent."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from evaltk.errors import SettingsError

Item = TypeVar("Item")

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


def items(loader: Iterable[Item], *, where: str, do: str) -> Iterator[Item]:
    """What a DataLoader's worker processes make; they end with this process, whatever signals they ignore.

    Args: where, do: of the error, where workers are set and what helps.

    Raises: SettingsError: a worker was killed, mostly for lack of memory.
    """
    atexit.unregister(_kill_workers)
    atexit.register(_kill_workers)  # before multiprocessing's own: that waits for workers which ignore SIGTERM
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    iterator = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)  # torch's raises wherever the main thread is, as amid a checkpoint
    try:
        yield from iterator
    except (RuntimeError, OSError, EOFError) as error:
        if not _gone(error):
            raise
        got = f"one that has gone: {(str(error).splitlines() or [type(error).__name__])[0]}"
        raise SettingsError(wanted="decoding processes that stay alive", got=got, where=where, do=do) from error
    finally:
        # As torch does when it is deleted, where an error could not be caught: a worker may be killed meanwhile.
        try:
            getattr(iterator, "_shutdown_workers", bool)()
        except RuntimeError as error:
            if not _gone(error):
                raise


def _gone(error: Exception) -> bool:
    """Whether it says that a worker has gone; not an error that one has met and sent."""
    lost = isinstance(error, OSError | EOFError) and "in DataLoader worker process" not in str(error)
    return lost or "DataLoader worker (pid" in str(error)


def _kill_workers() -> None:
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def start_worker(worker: int = 0) -> None:
    """Set up a worker process: it ends when its parent has died, even by SIGKILL, and leaves Ctrl-C to its parent.

    Without this a worker whose parent was killed waits for ever for a reader of what it made, and a parent waits for
    ever for what a worker failed to send.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_unsent)  # type: ignore[attr-defined]
    threading.Thread(target=_watch, args=(os.getppid(), multiprocessing.parent_process()), daemon=True).start()


def _unsent(error: Exception, item: object) -> None:
    """End the worker, which its parent notices; multiprocessing would drop the item and go on."""
    sys.stderr.write(f"a decoding process could not send its images: {type(error).__name__}: {str(error)[:200]}\n")
    sys.stderr.flush()
    os._exit(1)


def _watch(parent: int, process: multiprocessing.process.BaseProcess | None) -> None:
    # Under forkserver the parent in the system's sense is the server.
    while os.getppid() == parent and (process is None or process.is_alive()):
        time.sleep(LOOK)
    os._exit(1)
