"""Checkpoints written beside the training: one at a time, with patience for a disk that is full or slow."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable

from evaltk.errors import StorageError
from evaltk.progress import log

FULL = (errno.ENOSPC, errno.EDQUOT)  # what may pass; a limit on a file's size does not
RETRY = 2.0  # seconds between two tries
LEAST = 60.0  # seconds that any write may take
SLOW = 10.0  # seconds of waiting for a write, after which that is said


class Writer:
    """Runs one job at a time in a thread.

    Args:
        minutes: how long to wait for room on the disk, or for a write to end.
        what: is written, and where to, for messages.
    """

    def __init__(self, minutes: float, what: str) -> None:
        self.minutes, self.what = minutes, what
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def busy(self) -> bool:
        """Whether a job is under way. Raises: what the one before it raised."""
        busy = self._thread is not None and self._thread.is_alive()
        if not busy:
            self._raise()
        return busy

    def start(self, job: Callable[[], object]) -> None:
        """Begin a job, once the one before it is done. Raises: what that one raised; as `wait`."""
        self.wait()
        # A daemon: a process that ends does not wait for a disk that hangs.
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait for the job under way, whatever becomes of it; `busy` and `wait` still raise what it raised."""
        if self._thread is not None:
            self._thread.join(max(60 * self.minutes, LEAST))

    def wait(self) -> None:
        """Wait for the job under way. Raises: what it raised. StorageError: it is not done in time."""
        thread, started, said = self._thread, time.monotonic(), False
        while thread is not None and thread.is_alive():
            thread.join(0.2)  # short, so that signals are heard
            waited = time.monotonic() - started
            if waited > SLOW and not said:
                said = True
                log.warning("training waits for the disk: %s is not written yet", self.what)
            if waited > max(60 * self.minutes, LEAST):
                raise StorageError(
                    wanted=f"a checkpoint written within {self.minutes:g} minutes", got="a disk that is slower",
                    where=self.what, do="check the disk, or raise run.disk_minutes; checkpoints before it are kept",
                )  # fmt: skip
        self._thread = None
        self._raise()

    def _run(self, job: Callable[[], object]) -> None:
        try:
            patiently(job, self.minutes, self.what)
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            self._error = error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


def patiently(job: Callable[[], object], minutes: float, what: str) -> None:
    """Do a job that writes, again and again for so many minutes while the disk is full.

    Raises: StorageError: still full then, or anything else that is wrong with the disk.
    """
    started, said = time.monotonic(), False
    while True:
        try:
            job()
        except StorageError as error:
            cause = error.__cause__
            system = cause if isinstance(cause, OSError) else getattr(cause, "__context__", None)
            full = isinstance(system, OSError) and system.errno in FULL
            if not full or time.monotonic() - started >= 60 * minutes:
                raise
            if not said:
                said = True
                log.warning("no space left for %s: free some; trying again for %g minutes", what, minutes)
            time.sleep(RETRY)
        else:
            if said:
                log.info("written now: %s", what)
            return
