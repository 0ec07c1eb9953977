"""The command line: one subcommand a file. Heavy imports happen inside the subcommand that needs them."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import select
import sys
from pathlib import Path

from evaltk.errors import EvaltkError, nearest

SYNOPSIS = "usage: evaltk COMMAND ...   (evaltk COMMAND --help tells more)"


def commands() -> dict[str, str]:
    """{command: its one-line help}, read from the files' docstrings without importing them."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        place = Path(__file__).parent / module.name
        source = (place / "__init__.py" if module.ispkg else place.with_suffix(".py")).read_text(encoding="utf-8")
        found[module.name] = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
    return found


def overview() -> str:
    """What `evaltk --help` prints."""
    known = commands()
    width = max(map(len, known))
    return "\n".join([SYNOPSIS, "", *(f"  {name:<{width}}  {line}" for name, line in sorted(known.items()))])


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand. Exit codes: 0 done, 2 what the user can mend (one line on stderr), 1 a bug (traceback)."""
    from evaltk import progress

    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if args else 2
    if args[0] in ("-V", "--version", "version"):
        from evaltk import __version__

        print(__version__)
        return 0
    name = args[0]
    progress.configure()
    # A thread of torch that waits for another spins, by default, and so takes the core that the other one waits for
    # where cores are shared. Asleep it costs some 15 us an operation. Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if name not in commands():
            print(f"evaltk: wanted a command; got {name!r}; do: {nearest(name, commands())}", file=sys.stderr)
            return 2
        code = int(importlib.import_module(f"evaltk.cli.{name}").main(args[1:]))
        sys.stdout.flush()  # here, where a reader that has gone is known for what it is
        return code
    except EvaltkError as error:
        print(f"evaltk: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("evaltk: interrupted; finished shards and results are kept, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _reader_gone():
            raise
        return 0


def _reader_gone() -> bool:
    """Whether the reader of our output has gone (`| head`), which is no error of ours; other pipes may break too."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would flush what is left
    return True
