"""torchrun, where it runs this project: stop signals reach the processes, and its exit code is theirs.

On its own torchrun dies of SIGUSR1 at once, gives processes 30 seconds after SIGTERM, and exits with 1 and a traceback
whatever their code was, so that a scheduler cannot tell a job to requeue from a broken one. torchrun calls `handler`
as it starts (entry point group ``torchrun.handlers``); it does nothing in a torchrun that runs anything else.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from evaltk.processes import REQUEUE, STOPPING, ignore_at_exit

OURS = ("pretrain", "evaltk")  # modules, as in `torchrun -m pretrain`
LAUNCHERS = ("torchrun", "run.py", "-m")  # sys.argv[0] of torchrun and of `python -m torch.distributed.run`


def handler() -> Callable[[Any], Any]:
    """What the entry point is to return, a maker of rendezvous handlers; there is none of ours."""
    if (words := launched(sys.argv)) is not None:
        Agent(trains="pretrain" in words[:2]).install()
    return _no_rendezvous


def _no_rendezvous(parameters: Any) -> Any:
    raise ValueError("evaltk has no rendezvous of its own; leave out --rdzv-backend evaltk")


def launched(argv: Sequence[str]) -> list[str] | None:
    """The command of ours that a torchrun with these arguments runs; None: it runs something else, or is no torchrun.

    >>> launched(["/usr/bin/torchrun", "--nproc-per-node", "2", "-m", "pretrain", "digits_dino"])
    ['pretrain', 'digits_dino']
    """
    if not argv or Path(argv[0]).name not in LAUNCHERS:
        return None
    for at, word in enumerate(argv[1:], 1):
        module = argv[at - 1] in ("-m", "--module") and word in OURS
        if module or ("/" in word and Path(word).name == "evaltk"):  # the script, by its path
            return [Path(word).name, *argv[at + 1 :]]
    return None


class Agent:
    """torchrun's own process, while it runs a command of ours.

    Attributes:
        trains: whether that is a training. signal: the first that asked it to stop; 0 while there was none.
    """

    def __init__(self, *, trains: bool) -> None:
        self.trains, self.signal = trains, 0
        self.pids: Callable[[], dict[int, int]] = dict

    def install(self) -> None:
        """Take over the signals, once torchrun has set its own, and the way in which it ends."""
        from torch.distributed.elastic.multiprocessing import api

        start = api.PContext.start

        def started(context: Any) -> None:
            if self.signal:  # --max-restarts: a run that was asked to stop is not started again
                raise SystemExit(self.code(self.signal))
            start(context)
            self.pids = context.pids
            for number in STOPPING:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    signal.signal(number, self.forward)

        api.PContext.start = started  # type: ignore[method-assign]
        sys.excepthook = self.ended
        ignore_at_exit()
        for number in STOPPING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self.too_early)

    def too_early(self, number: int, frame: FrameType | None) -> None:
        """Before there are processes to stop: nothing has begun, and the same command goes on later."""
        raise SystemExit(self.code(number))

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on; Ctrl-C as SIGTERM, since a second SIGINT would end processes that got the terminal's."""
        self.signal = self.signal or number
        for pid in self.pids().values():
            try:
                os.kill(pid, signal.SIGTERM if number == signal.SIGINT else number)
            except ProcessLookupError:
                continue

    def code(self, number: int) -> int:
        """The exit code after a signal."""
        return REQUEUE if self.trains and number != signal.SIGINT else 128 + number

    def ended(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """`sys.excepthook`: exit as the process that failed first did, whose line stands above already."""
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

        if not isinstance(error, ChildFailedError):
            sys.__excepthook__(kind, error, trace)
            return
        failures = sorted(error.failures.items(), key=lambda pair: pair[1].timestamp)
        code = next((failure.exitcode for _, failure in failures if failure.exitcode > 0), 0)
        if self.signal == signal.SIGINT and code == REQUEUE:  # they saw the SIGTERM that was handed on
            code = self.code(self.signal)
        if not code:
            rank, failure = failures[0]
            if self.signal and -failure.exitcode in (self.signal, signal.SIGTERM):
                raise SystemExit(self.code(self.signal))
            name, code = signal.Signals(-failure.exitcode).name, 128 - failure.exitcode
            memory = ", most often for lack of memory" if name == "SIGKILL" else ""
            said = f"wanted processes that stay alive; got process {rank} killed by {name}{memory}; do: run it again"
            sys.stderr.write(f"evaltk: {said}\n")  # torchrun has no logger of ours
        raise SystemExit(code)
