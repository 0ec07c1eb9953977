"""The command line: one subcommand per file. Heavy imports happen inside the subcommand that needs them."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path

from evaltk.errors import EvaltkError, SettingsError, nearest

SYNOPSIS = "usage: evaltk COMMAND [options]      details: evaltk COMMAND --help"
KEPT = "; finished shards and results are kept: run again to resume"
SEVERAL = ("run", "pretrain")  # commands that torchrun may start in several processes
FIRST = "first steps: evaltk demo; evaltk run pixels:8 --data digits; evaltk ls datasets"


def commands() -> dict[str, str]:
    """{command: its one-line help}, the first line of each file, read without importing it."""
    folder, lines = Path(__file__).parent, {}
    for place in sorted(folder.iterdir()):
        file = place / "__init__.py" if place.is_dir() else place
        if place.name.startswith("_") or file.suffix != ".py" or not file.exists():
            continue
        with file.open(encoding="utf-8") as stream:
            lines[place.stem] = stream.readline().strip().strip('"')
    return lines


def overview() -> str:
    """What `evaltk --help` prints."""
    lines = commands()
    width = max(map(len, lines))
    table = [f"  {name:<{width}}  {line}" for name, line in sorted(lines.items())]
    return "\n".join([SYNOPSIS, "", *table, "", FIRST])


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand. Exit codes: 0 done, 2 an error the user can fix (one line on stderr), 1 a bug (traceback),
    128 + n ended by signal n (one line)."""
    from evaltk import crew

    args = sys.argv[1:] if argv is None else argv
    name = next((word for word in args if not word.startswith("-")), "")
    return crew.together(lambda: _begun(args), said, several=name in SEVERAL)


def _begun(args: list[str]) -> int:
    """Answer what asks for no subcommand, or run it."""
    from evaltk import streams

    streams.prepare()
    streams.check_folder()
    if len(args) == 2 and args[0] == "help":
        args = [args[1], "--help"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview(), flush=True)
        return 0 if args else 2
    if args[0] in ("-V", "--version", "version"):
        from evaltk import __version__

        print(__version__, flush=True)
        return 0
    # A thread of torch that waits for another spins, by default, and so takes the core that the other one waits for
    # where cores are shared. Asleep it costs some 15 us an operation. Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MPLBACKEND"] = "agg"  # no command opens a window, and a shell may name a backend that is not there
    return _command(args)


def _command(args: list[str]) -> int:
    from evaltk import clashes, processes, progress

    clashes.check()
    name, *rest = progress.configured(args) or ["--help"]
    if name not in commands():
        raise SettingsError(wanted="a command", got=repr(name), do=nearest(name, commands()))
    with processes.ended_by_signals():
        code = int(importlib.import_module(f"evaltk.cli.{name}").main(rest))
        sys.stdout.flush()  # here, where a reader that has gone is known for what it is
    return code


def said(error: BaseException) -> int:
    """Print an error on one line. Returns: the exit code. Raises: `error` itself, if it is a bug."""
    from evaltk import files, processes, streams

    if isinstance(error, EvaltkError):
        return _told(error)
    if isinstance(error, KeyboardInterrupt):
        print(f"evaltk: interrupted{KEPT}", file=sys.stderr)
        return 130
    if isinstance(error, processes.Ended):
        print(f"evaltk: ended by {error.name}{error.kept or KEPT}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, BrokenPipeError) and streams.reader_gone():
        return 0
    # A file that vanished, or a disk that failed, where nothing else looked for that.
    known = files.unforeseen(error) or streams.unwritten(error) if isinstance(error, OSError) else None
    if known is None:
        raise error
    return _told(known.with_traceback(error.__traceback__))


def _told(error: EvaltkError) -> int:
    """Say what went wrong, whole with --verbose. Returns: the exit code."""
    from evaltk import progress

    with contextlib.suppress(OSError):  # the exit code tells, where stderr cannot be written to
        print(f"evaltk: {error if progress.is_verbose() else error.brief()}", file=sys.stderr)
    progress.log.debug("where it was raised:", exc_info=error)
    return error.exit_code
