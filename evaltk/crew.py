"""Several processes of one command: an error in one of them ends them all, and is said once.

Each process has a connection of its own to the launcher's store, on which a thread tells that it is alive and what it
is at, and looks for the error of another. Collectives cannot be interrupted, so a process that waits in one is ended.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from evaltk import launchers
from evaltk.errors import EvaltkError
from evaltk.launchers import Place

if TYPE_CHECKING:
    from torch.distributed import TCPStore

JOIN = 600.0  # seconds within which all processes have to be there
BEAT = 0.5  # seconds between two signs of life
SILENT = 60.0  # seconds without one, after which a process counts as dead
GRACE = 4.0  # seconds in which a process may end by itself after another's error
LOST = ("connection", "peer", "socket", "broken pipe", "nccl", "timed out", "timeout")  # in errors of collectives
_CREW: ContextVar[Crew | None] = ContextVar("crew", default=None)


class Failed(EvaltkError):
    """Another process of this command has gone, or all of them wait too long."""


def current() -> Crew | None:
    """The processes that this one belongs to; None: it is alone."""
    return _CREW.get()


def together(run: Callable[[], int], say: Callable[[BaseException], int], *, several: bool = True) -> int:
    """`run()`, or `say(error)` of whichever process fails first; all processes return or end with its exit code.

    Args:
        say: prints the error's line and returns its exit code, or raises what is no error of the user's.
        several: False: a command that is on its own wherever it is started.
    """
    try:
        place = launchers.place(os.environ) if several else None
        if place is None or current() is not None or _grouped():
            return run()
        crew = Crew(place)
    except BaseException as error:  # noqa: BLE001 - say raises what it does not know
        return say(error)
    token = _CREW.set(crew)
    try:
        code = run()
        crew.leave()
        return code
    except BaseException as error:  # noqa: BLE001 - whatever it is, the others must not wait for this process
        return crew.fail(error, say)
    finally:
        _CREW.reset(token)


def _grouped() -> bool:
    """Whether a caller's process group is there already, whose meeting point is in use."""
    group = sys.modules.get("torch.distributed")
    return group is not None and group.is_available() and group.is_initialized()


def doing(what: str, seconds: float | None = None) -> None:
    """Say what this process is at, for the others; `seconds`: the bound from now on, after which all are ended."""
    crew = current()
    if crew is not None:
        crew.at, crew.since = what, time.monotonic()
        crew.bound = seconds if seconds is not None else crew.bound


class Crew:
    """The processes of one command, seen from one of them.

    Args:
        place: which of them it is.

    Attributes:
        store: of the launcher, for the process group. at, since: what this process does, and since when. bound: seconds
            that it may take.

    Raises: Failed: not all of them joined in time.
    """

    def __init__(self, place: Place) -> None:
        from torch.distributed import PrefixStore

        self.place, self.at, self.since, self.bound = place, "starting", time.monotonic(), 12 * 3600.0
        self._client = self._connect(hosts=place.hosts)
        self.store = PrefixStore(f"evaltk/group/{place.attempt}", self._client)
        self._own = self._connect(hosts=False)  # a store serves one thread at a time, and a wait may be long
        self._told: dict[str, Any] = {}
        self._left = threading.Event()
        self._join()
        threading.Thread(target=self._watch, name="crew", daemon=True).start()

    def _connect(self, *, hosts: bool) -> TCPStore:
        from torch.distributed import TCPStore

        place = self.place
        try:
            return TCPStore(
                place.address, place.port, is_master=hosts, wait_for_workers=False, timeout=timedelta(seconds=JOIN)
            )
        except (RuntimeError, ValueError) as error:
            got = "an address in use" if "address already in use" in str(error).lower() else "no answer"
            do = "start with torchrun, which sets them, or unset WORLD_SIZE and RANK for a single process"
            where = f"MASTER_ADDR={place.address}, MASTER_PORT={place.port}"
            raise Failed(wanted="the meeting point of the processes", got=got, where=where, do=do) from error

    def _key(self, name: str) -> str:
        return f"evaltk/crew/{self.place.attempt}/{name}"

    def _join(self) -> None:
        place, deadline = self.place, time.monotonic() + JOIN
        self._client.set(self._key(f"alive/{place.rank}"), "0 starting")
        self._client.set(self._key(f"who/{place.rank}"), f"{platform.node()}, process {os.getpid()}")
        missing = [rank for rank in range(place.world) if rank != place.rank]
        while missing:  # in short looks, so that a signal is heard
            missing = [rank for rank in missing if not self._client.check([self._key(f"who/{rank}")])]
            if missing and time.monotonic() > deadline:
                some = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
                raise Failed(
                    wanted=f"{place.world} processes within {JOIN / 60:.0f} minutes",
                    got=f"none with rank {some}",
                    where="WORLD_SIZE, RANK",
                    do="start them with torchrun, or unset WORLD_SIZE and RANK for a single process",
                )
            time.sleep(0.02)

    def leave(self) -> None:
        """This process is done, and the others may go on without it."""
        self._left.set()
        try:
            self._client.set(self._key(f"alive/{self.place.rank}"), "left")
        except RuntimeError:
            return
        if self.place.hosts:  # the store ends with this process
            self._acknowledged("alive", "left")

    def fail(self, error: BaseException, say: Callable[[BaseException], int]) -> int:
        """End all processes for an error of this one, unless another was first. Returns: the exit code of the first."""
        if self._told or (self._lost(error) and self._await_verdict()):
            return self._end(int(self._told["code"]))
        if self._lost(error):
            error = self._gone(error)
        try:
            first = self._client.add(self._key("first"), 1) == 1
        except RuntimeError:  # the store has gone, with the launcher or process 0
            first = self.place.rank == 0 or not self._lost(error)
        if not first and self._await_verdict():
            return self._end(int(self._told["code"]))
        try:
            code = say(error)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException as bug:  # noqa: BLE001 - what the interpreter would print, before the others are told
            traceback.print_exception(bug)
            code = 1
        self._publish(code, type(error).__name__)
        return self._end(code)

    def _publish(self, code: int, kind: str) -> None:
        told = {"rank": self.place.rank, "code": code, "kind": kind}
        self._left.set()
        try:
            self._client.set(self._key("failed"), json.dumps(told))
            if self.place.hosts:
                self._acknowledged("seen", None)
        except BaseException:  # noqa: BLE001 - the launcher may send SIGTERM by now, or be gone
            return

    def _acknowledged(self, name: str, value: str | None) -> None:
        """Wait, a little, until all others have set a key to a value."""
        others = [self._key(f"{name}/{rank}") for rank in range(self.place.world) if rank != self.place.rank]
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            there = [key for key in others if self._client.check([key])]
            if len(there) == len(others) and (
                value is None or all(self._client.get(k) == value.encode() for k in there)
            ):
                return
            time.sleep(0.05)

    def _end(self, code: int) -> int:
        """Let this process end by itself, or end it: its group may wait for the others when it is taken down."""
        self._left.set()

        def ended() -> None:
            time.sleep(GRACE)
            _leave_now(code)

        threading.Thread(target=ended, daemon=True).start()
        return code

    def _lost(self, error: BaseException) -> bool:
        if not isinstance(error, RuntimeError):
            return False
        text = str(error).lower()
        return any(word in text for word in LOST)

    def _await_verdict(self) -> bool:
        """Whether another process says within a moment what went wrong."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            if self._told or self._look(self._client):
                return True
            time.sleep(0.05)
        return False

    def _gone(self, error: BaseException) -> Failed:
        """The error for a process that has died without a word."""
        silent = self._silent()
        who = "; ".join(silent) or (str(error).splitlines() or [""])[0][:100]
        return Failed(
            wanted=f"{self.place.world} processes that stay alive",
            got=f"lost: {who}",
            where=self.at,
            do="look above or in the scheduler's log (killed, most often for lack of memory), then run it again",
        )

    def _silent(self) -> list[str]:
        """The processes that give no sign of life now."""
        try:
            before = self._alive()
            time.sleep(3 * BEAT)
            now = self._alive()
            names = [n for n in range(self.place.world) if n != self.place.rank and before[n] == now[n]]
            return [f"rank {n} ({self._client.get(self._key(f'who/{n}')).decode()})" for n in names]
        except RuntimeError:
            return []

    def _alive(self) -> list[str]:
        keys = [self._key(f"alive/{rank}") for rank in range(self.place.world)]
        return [value.decode() for value in self._client.multi_get(keys)]

    def _look(self, store: TCPStore) -> bool:
        """Whether an error was told; remembers it."""
        try:
            if not store.check([self._key("failed")]):
                return False
            self._told = json.loads(store.get(self._key("failed")))
            store.set(self._key(f"seen/{self.place.rank}"), "1")
        except RuntimeError:
            return bool(self._told)
        return True

    def _watch(self) -> None:
        """The thread: beat, look for errors, and look after the next process."""
        neighbour, beats, last, quiet = (self.place.rank + 1) % self.place.world, 0, "", 0
        while not self._left.wait(BEAT):
            beats += 1
            try:
                self._own.set(self._key(f"alive/{self.place.rank}"), f"{beats} {self.at}")
                if self._look(self._own):
                    break
                seen = self._own.get(self._key(f"alive/{neighbour}")).decode()
            except RuntimeError:
                self._launcher_gone()
                return
            quiet = 0 if seen != last or seen == "left" else quiet + 1  # counted, since a machine may be suspended
            last = seen
            if quiet * BEAT > SILENT:
                self._accuse(f"no sign of life of rank {neighbour} for {SILENT:.0f} s", f"{last.partition(' ')[2]}")
                return
            if time.monotonic() - self.since > self.bound:
                self._accuse(f"{self.bound / 60:.0f} minutes in one place", self._everyone())
                return
        if self._told:
            time.sleep(GRACE)
            if not self._left.is_set():
                _leave_now(int(self._told["code"]))

    def _everyone(self) -> str:
        return "; ".join(f"rank {n}: {said.partition(' ')[2]}" for n, said in enumerate(self._alive()[:8]))

    def _accuse(self, got: str, where: str) -> None:
        """End all processes for what this thread has seen; the main one is waiting."""
        first = self._own.add(self._key("first"), 1) == 1
        if first:
            error = Failed(
                wanted="processes that all go on", got=got, where=where,
                do="look for what that process waits (disk, network, a debugger), then run it again",
            )  # fmt: skip
            sys.stderr.write(f"evaltk: {error}\n")  # the main thread cannot say it
            sys.stderr.flush()
            self._publish(Failed.exit_code, "Failed")
        _leave_now(Failed.exit_code)

    def _launcher_gone(self) -> None:
        """The store has gone. Under torchrun, which has died: stop as it would have asked; else process 0 has ended."""
        if self._left.wait(GRACE):
            return
        if self.place.agent:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            _leave_now(1)


def _leave_now(code: int) -> None:
    """End this process, whatever its main thread waits for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
