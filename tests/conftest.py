"""What several test files share: folders of small images, and processes of their own that start in no time."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from noise_images import write_image

# Nets here are tiny: a second thread costs more than it brings, and on a busy machine it costs everything. Set before
# torch is imported, and passed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _messages_as_they_were() -> Iterator[None]:
    """A command that a test runs sets up the logger, which would hide the messages of later tests from `caplog`."""
    log = logging.getLogger("evaltk")
    log.propagate, log.handlers[:] = True, []  # also what a fixture of a whole module has set up
    log.setLevel(logging.NOTSET)
    yield
    log.propagate, log.handlers[:] = True, []
    log.setLevel(logging.NOTSET)


@pytest.fixture
def image_tree(tmp_path: Path) -> Callable[..., Path]:
    """`build({"train/cat": 3, ...})`: a folder with so many images in each of its folders."""

    def build(folders: Mapping[str, int], *, name: str = "data", form: str = "png") -> Path:
        for folder, count in folders.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                write_image(tmp_path / name / folder / f"{number:03d}.{form}")
        return tmp_path / name

    return build


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """`threads(n)`: torch computes in n threads until the test ends."""
    import torch  # only now that the number of threads above is set

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


SERVER = """
import json, os, sys, traceback
import evaltk.cli, evaltk.features.extraction, evaltk.models.vit, evaltk.running.runner  # once, not once a process

for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    for stream, path in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), stream)
    os.environ.update(asked["env"])
    sys.argv, code = ["script", *asked["argv"]], 0
    try:
        exec(compile(asked["script"], "script", "exec"), {"__name__": "__main__"})
    except SystemExit as exit_:
        code = exit_.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
"""


class Forks:
    """Runs scripts, each in a process of its own, forked from one that has imported torch but done nothing with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, **asked: object) -> int:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, script: str, argv: Sequence[object] = (), env: Mapping[str, object] | None = None) -> int:
        """The number of a process that runs the script."""
        told = {name: str(value) for name, value in (env or {}).items()}
        out, err = (str(self.folder / f"{self.count}.{stream}") for stream in ("out", "err"))
        pid = self._ask(script=script, argv=[str(a) for a in argv], env=told, out=out, err=err)
        (self.folder / str(pid)).write_text(str(self.count))
        self.count += 1
        return pid

    def ended(self, pid: int) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a process, once it has ended; the code is -9 where it was killed."""
        number = (self.folder / str(pid)).read_text()
        code = self._ask(wait=pid)
        out, err = ((self.folder / f"{number}.{stream}").read_text() for stream in ("out", "err"))
        return code, out, err


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Processes of their own."""
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    assert made.server.stdin is not None
    made.server.stdin.close()
    made.server.wait()
