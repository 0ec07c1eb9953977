"""Forks the command line, with everything imported already, and breaks it at the n-th change of its folders.

Reads requests as JSON lines: {"argv", "folder", "stderr", "fault", "at", "count"} starts a process and answers its id;
{"wait": id} answers its exit code.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.link", "os.mkdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
IMPORTED = (
    "evaltk.cli.run", "evaltk.cli.pretrain", "evaltk.cli.report", "evaltk.cli.fetch", "evaltk.cli.convert",
    "evaltk.cli.extract",
    "evaltk.features.extraction", "evaltk.running.runner", "evaltk.models.vit", "evaltk.datasets.digits",
    "protocols.knn", "protocols.linear.data", "protocols.linear.scores", "protocols.finetune.data", "pretrain.loop",
    "reports.page.build", "reports.tables.build", "evaltk.checkpoints.load",
)  # fmt: skip


class Breaker:
    """An audit hook that counts changes of files under a folder, and breaks the process at one of them."""

    def __init__(self, folder: str, fault: str, at: int) -> None:
        self.folder, self.fault, self.at, self.count, self.pid = folder, fault, at, 0, os.getpid()

    def __call__(self, event: str, given: tuple) -> None:
        if os.getpid() != self.pid or not self._changes(event, given):
            return
        self.count += 1
        if self.count >= self.at > 0 and self.fault in ("file deleted", "process killed"):
            fault, self.fault = self.fault, ""
            if not (self._delete() if fault == "file deleted" else kill_child()):
                self.fault = fault  # at the next change
        if self.fault == "full disk" and self.count >= self.at > 0 and event in ("open", "os.mkdir", "os.link"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(given[0]))
        if self.count == self.at and self.fault.startswith("SIG"):
            os.kill(self.pid, getattr(signal, self.fault))

    def _delete(self) -> bool:
        """Remove one of the files that lie there now, chosen by `at`."""
        there = sorted(
            p for p in Path(self.folder).rglob("*") if p.is_file() and not p.name.endswith((".lock", ".toml"))
        )
        if there:
            there[self.at % len(there)].unlink(missing_ok=True)
        return bool(there)

    def _changes(self, event: str, given: tuple) -> bool:
        if event == "open":
            return self._within(given[0]) and bool(given[2] & WRITES)
        return event in CHANGES and self._within(given[0])

    def _within(self, path: object) -> bool:
        return isinstance(path, str | Path) and os.path.abspath(path).startswith(self.folder)


def kill_child() -> bool:
    """Kill a decoding process, if there is one."""
    children = multiprocessing.active_children()
    if children:
        children[0].kill()
    return bool(children)


def obey_permissions() -> None:
    """Give up root's right to write where permissions forbid it, as an ordinary user has none."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of capset(2), this process
        assert libc.capset(header, (ctypes.c_uint32 * 6)()) == 0, os.strerror(ctypes.get_errno())


def child(asked: dict) -> int:
    """Run the command in this process, which is a session of its own. Returns: its exit code."""
    from evaltk import cli

    os.setsid()
    output = os.open(asked["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", closefd=False)
    os.chdir(asked["folder"])
    breaker = Breaker(asked["folder"], asked["fault"], asked["at"])
    sys.addaudithook(breaker)
    if asked["fault"] == "file size limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["at"], resource.RLIM_INFINITY))
    if asked["fault"] == "read-only":
        obey_permissions()
    try:
        code = cli.main(asked["argv"])
    except BaseException:  # noqa: BLE001  # what the interpreter would print
        traceback.print_exc()
        code = 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    count, breaker.pid = breaker.count, 0
    Path(asked["count"]).write_text(str(count))
    atexit._run_exitfuncs()  # which os._exit leaves out: it waits for processes, too
    sys.stderr.flush()
    return code


def main() -> None:
    """Serve until stdin ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    from evaltk import claims

    # Of a claim whose owner cannot be read nobody knows that he is dead: it is waited for, not for two minutes here.
    assert claims.Claims.__init__.__kwdefaults__ is not None
    claims.Claims.__init__.__kwdefaults__.update(beat=0.5, stale=10.0)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                os._exit(child(asked))
        print(answer, flush=True)


main()
