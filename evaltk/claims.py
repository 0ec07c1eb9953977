"""Claims: which of several programs, on one machine or many, does a piece of work.

A claim on PATH is a folder ``PATH.claim-N`` that appears in one rename, which fails where it exists; nothing else is
asked of a shared disk. Its holder rewrites a counter in it every few seconds, and others watch the counter by their own
clocks, so clocks may differ. A claim whose holder is dead, or whose counter stands still, is taken over as
``PATH.claim-(N+1)``, which again only one program can make; nothing is removed before the work is done.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from evaltk import files, owned, safe_json
from evaltk.errors import StorageError

BEAT = 5.0  # seconds between two signs of life
STALE = 120.0  # seconds without one; NFS may show a file of up to a minute ago
OWNER, PULSE = "owner", "pulse"  # files of a claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim that this program holds. path: of the work. number: how often it was taken over. token: its own."""

    path: Path
    number: int
    token: str

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return _folder(self.path, self.number)

    def lost(self) -> bool:
        """Whether another program has taken it over, as after this machine was suspended."""
        return max(_numbers(self.path), default=self.number) > self.number


class Claims:
    """What this program has claimed, kept alive by a thread; on leaving, all of it is released.

    Args:
        beat: seconds between two signs of life. stale: seconds without one, after which a claim is taken over.
    """

    def __init__(self, *, beat: float = BEAT, stale: float = STALE) -> None:
        self.beat, self.stale = beat, stale
        self._held: dict[str, Claim] = {}
        self._seen: dict[Path, tuple[str, float]] = {}
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for claim in list(self._held.values()):
            self.release(claim)
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def take(self, path: Path) -> Claim | None:
        """Claim the work that `path` stands for; None: another program is at it. Raises: StorageError."""
        with files.storage_errors(path.parent):
            numbers = _numbers(path)
            if numbers and not self._left(_folder(path, numbers[-1])):
                return None
            claim = Claim(path=path, number=numbers[-1] + 1 if numbers else 0, token=secrets.token_hex(8))
            if not _put(claim):
                return None
        self._held[claim.token] = claim
        if claim.lost():  # the claim seen before was released and the work claimed anew in between
            self.release(claim)
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)
            self._thread.start()
        return claim

    def release(self, claim: Claim) -> None:
        """Give a claim up, with those that it was taken over from."""
        self._held.pop(claim.token, None)
        for number in _numbers(claim.path):
            if number <= claim.number:
                _remove(_folder(claim.path, number))

    def tidy(self, folder: Path, *, undone: bool = False) -> None:
        """Remove the claims of the dead in `folder` whose work is done: the file that they are on is there.

        What was killed while it made or removed a claim is removed, too.

        Args:
            undone: also those of other work, where a claim stands for no file.
        """
        with suppress(OSError, StorageError):  # it may be a folder that can be read only
            owned.sweep(folder)
            names = {entry.name.rpartition(".claim-")[0] for entry in folder.iterdir() if ".claim-" in entry.name}
            for work in (folder / name for name in names if undone or (folder / name).is_file()):
                if (claim := self.take(work)) is not None:
                    self.release(claim)

    def holder(self, path: Path) -> str:
        """Who works at `path`, in words; empty for nobody."""
        numbers = _numbers(path)
        told = _owner(_folder(path, numbers[-1])) if numbers else {}
        return f"process {told['process']} on {told['node']}" if told.keys() >= {"process", "node"} else ""

    def _left(self, folder: Path) -> bool:
        """Whether the claim in `folder` has no living holder."""
        told = _owner(folder)
        if str(told.get("token")) in self._held:
            return False
        if told.get("host") == _host() and _dead(told.get("process")):
            return True
        now, pulse = time.monotonic(), f"{told.get('token')} {_text(folder / PULSE)}"
        seen = self._seen.get(folder)
        if seen is None or seen[0] != pulse:
            self._seen[folder] = (pulse, now)
            return False
        return now - seen[1] > self.stale

    def _beat(self) -> None:
        count = 0
        while not self._end.wait(self.beat):
            count += 1
            for claim in list(self._held.values()):
                part = claim.folder / f".{PULSE}.part"
                with suppress(OSError):  # a full disk, or a claim just released
                    part.write_text(str(count))
                    part.replace(claim.folder / PULSE)


def _folder(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.claim-{number}")


def _numbers(path: Path) -> list[int]:
    """The claims on a path, in order."""
    form = re.compile(re.escape(path.name) + r"\.claim-([0-9]{1,9})")
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := form.fullmatch(name)))


def _put(claim: Claim) -> bool:
    """Make the claim's folder, whole and in one rename. Returns: False: there is one."""
    files.make_folder(claim.path.parent)
    building = owned.temporary(claim.path)
    building.mkdir()
    descriptor = os.open(building, os.O_RDONLY)
    try:
        owned.claim(descriptor)  # or another run would sweep it
        told = {"token": claim.token, "process": os.getpid(), "node": platform.node(), "host": _host()}
        (building / OWNER).write_text(json.dumps(told))
        (building / PULSE).write_text("0")
        building.rename(claim.folder)
    except OSError:
        # Over NFS a rename may succeed and be told as failed, when its answer was lost.
        if _owner(claim.folder).get("token") != claim.token:
            if not claim.folder.exists():
                raise
            return False
    finally:
        os.close(descriptor)
        shutil.rmtree(building, ignore_errors=True)
    return True


def _remove(folder: Path) -> None:
    away = owned.temporary(folder)
    with suppress(OSError):
        folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _owner(folder: Path) -> dict[str, object]:
    try:
        told = safe_json.parse(_text(folder / OWNER))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:1000]
    except OSError:
        return ""


def _dead(process: object) -> bool:
    """Whether a process of this machine is known to have died."""
    if not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's
        return False
    return False


def _host() -> str:
    """This boot of this machine, and its space of process numbers: containers may share a name."""
    boot = _text(Path("/proc/sys/kernel/random/boot_id")).strip()
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return f"{platform.node()} {boot} {space}"
