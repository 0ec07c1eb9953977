"""`make bench`: every benchmark, or those named. Each prints ratios against a plain version measured in the same run.

python -m benchmarks neighbours extraction
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time

import benchmarks

NOT_TIMED = ("evidence", "gpu", "numbers", "roofline")  # what comes out, what needs a card, what would be launched


def main(names: list[str]) -> int:
    """Run the named benchmarks, all where none is named."""
    there = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name[0] != "_" and m.name not in NOT_TIMED]
    unknown = sorted(set(names) - set(there))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(there)}", file=sys.stderr)
        return 2
    for name in names or there:
        started = time.perf_counter()
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()
        print(f"   ({time.perf_counter() - started:.0f} s)", flush=True)
    return 0


raise SystemExit(main(sys.argv[1:]))
