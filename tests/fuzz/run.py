"""Feed mutated inputs to every parser: a value or an EvaltkError is to come of each, soon and in little memory.

    python tests/fuzz/run.py --count 10000 recipe npz        # each of `parsers.PARSERS`, or those named

Prints one JSON line a parser. A mutant is made from (parser, seed, number) alone: --first N --count 1 makes it again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import making
import parsers

from evaltk.errors import EvaltkError

SECONDS = 20  # of the processor, for one input
WAIT = 300  # seconds on the clock, for one input: others may use the processor too
MEMORY = 1500 << 20  # bytes that reading one may add
LONGEST = 2000  # characters of an error, which may list tensors and paths; shown with --verbose
BRIEF = 300  # characters of what is shown without
# Imported before the clock runs: on a busy machine that takes as long as an input may, and half an import stays broken.
IMPORTED = ("evaltk.models.vit", "evaltk.checkpoints.load", "sklearn.neighbors", "pretrain.loop", "reports.page.build")
ACTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "pty.spawn")
WRITES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")


class TookTooLong(BaseException):
    """Not to be caught by what is tested."""


class Watch:
    """Notes processes, connections and writes outside of `folder` while `on`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.on, self.seen = str(folder), False, list[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if not self.on:
            return
        if "torchinductor" in str(args[:1]):
            return  # torch's own folder of compiled code, made when it is imported
        if event in ACTS and "/sbin/ldconfig" not in args:  # by which ctypes finds libraries at the first import
            self.seen.append(f"{event} {args!r}"[:120])
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in WRITES) and isinstance(args[0], str | bytes | os.PathLike):
            fd = args[min(2, len(args) - 1)] if event in WRITES else -1  # shutil.rmtree names files by their folder's
            place = os.path.realpath(f"/proc/self/fd/{fd}") if isinstance(fd, int) and fd >= 0 else ""
            path = os.path.abspath(os.path.join(place, os.fsdecode(args[0])))
            if not path.startswith((self.folder, "/dev/")) and "__pycache__" not in path:
                self.seen.append(f"{event} {path}")


def peak() -> int:
    """The process's largest resident size so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def outcome(parser: making.Parser, path: Path, watch: Watch) -> tuple[str, str]:
    """("value" | "refused" | a fault, its details) of one input."""
    before, start = peak(), time.monotonic()
    watch.seen.clear()
    watch.on = True
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAIT)
    try:
        parser.read(path)
        result, details = "value", ""
    except EvaltkError as error:
        result, details = "refused", str(error)
        if len(details) > LONGEST or len(error.brief()) > BRIEF or "\n" in details:
            result = "an error of more than one line" if "\n" in details else "a long error"
    except TookTooLong:
        result, details = f"more than {SECONDS} s", f"{time.monotonic() - start:.0f} s on the clock"
    except BaseException as error:  # noqa: BLE001 - every other outcome is what is looked for
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/tests/" not in f.filename]
        at = next((f"{f.filename}:{f.lineno}" for f in reversed(ours) if "site-packages" not in f.filename), "?")
        result, details = f"{type(error).__name__} at {at}", str(error)[:200]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        watch.on = False
    if watch.seen:
        result, details = "acted", "; ".join(watch.seen[:3])
    if peak() - before > MEMORY:
        result, details = "too much memory", f"{(peak() - before) >> 20} MB in {time.monotonic() - start:.1f} s"
    return result, details


def fuzz(parser: making.Parser, count: int, *, first: int, seed: int, folder: Path, watch: Watch) -> dict[str, object]:
    """Counts of outcomes, and for each fault its first inputs."""
    start, counts, faults = time.monotonic(), Counter[str](), dict[str, list[str]]()
    for number in range(first, first + count):
        rng = random.Random(f"{parser.name} {seed} {number}")
        path = folder / f"in{parser.suffix}"
        parser.make(rng, path)
        print(f"{parser.name} {number}", file=sys.stderr, end="\r")
        with quiet():
            result, details = outcome(parser, path, watch)
        counts[result if result in ("value", "refused") else "fault"] += 1
        if result not in ("value", "refused"):
            faults.setdefault(result, []).append(f"#{number} {details}")
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return {
        "parser": parser.name,
        "inputs": count,
        "seconds": round(time.monotonic() - start, 1),
        **counts,
        "faults": {f"{len(of)} x {kind}": of[:2] for kind, of in faults.items()},
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stdout and stderr, no warnings and log lines."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def main(argv: Sequence[str]) -> int:
    """Exit 1 where any input had another outcome."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("names", nargs="*")
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args(argv)
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGALRM, _raise)
    signal.signal(signal.SIGPROF, _raise)
    logging.disable(logging.CRITICAL)
    bad = False
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["EVALTK_HOME"] = str(folder / "home")
        watch = Watch(folder)
        tempfile.tempdir = str(folder)
        for name, build in parsers.PARSERS.items():
            if given.names and name not in given.names:
                continue
            (folder / name).mkdir()
            parser = build(name, folder / name)
            if parser is None:
                continue
            count = math.ceil(given.count * parser.share)
            told = fuzz(parser, count, first=given.first, seed=given.seed, folder=folder / name, watch=watch)
            bad = bad or bool(told["faults"])
            print(json.dumps(told), flush=True)
    return int(bad)


def _raise(*_: object) -> None:
    raise TookTooLong


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
