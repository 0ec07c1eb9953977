"""All numbers the toolkit gives on small fixed inputs, written down to the bit, to be compared with those of another
tree, machine or setting.

python -m benchmarks.numbers OUT                a minute or two of one core
python -m benchmarks.numbers OUT --only vmf vos
python -m benchmarks.numbers --compare A B      what differs; exit 1 if anything does
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path


def measure(out: Path, only: list[str]) -> int:
    """Run the groups and write what they gave. Returns: 1 where one failed, else 0."""
    from benchmarks._numbers_record import Record
    from benchmarks._numbers_suite import Suite

    os.environ |= {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder).resolve())
        for name, group in Suite(record).groups().items():
            if only and not any(name.startswith(prefix) for prefix in only):
                continue
            started = time.perf_counter()
            try:
                group()
            except Exception as error:  # noqa: BLE001 - an older tree may lack what a group asks for
                failed = True
                record.text(f"{name}/failed", f"{type(error).__name__}: {error}")
                traceback.print_exc()
            print(f"{name}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        record.write(out)
    return int(failed)


def compare(a: Path, b: Path) -> int:
    """Print what differs between two folders. Returns: 1 where anything does, else 0."""
    from benchmarks import _numbers_compare as comparing

    changes, words, sizes = comparing.compare(a, b)
    if not changes and not words:
        print(f"all {sum(sizes.values())} arrays and all texts are the same to the bit")
        return 0
    print("\n".join(comparing.by_group(changes, sizes)) if changes else "all arrays are the same to the bit")
    for change in changes:
        if change.told:
            print(f"{change.name}: {change.elements} of {change.size}: {change.told}")
    print("\n".join(words))
    return 1


def main(argv: list[str] | None = None) -> int:
    """Parse, measure or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder to write into")
    parser.add_argument("--only", nargs="+", default=[], help="groups, by the beginning of their names")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two folders")
    asked = parser.parse_args(argv)
    if asked.compare:
        with contextlib.suppress(BrokenPipeError):
            return compare(*asked.compare)
        return 1
    if asked.out is None:
        parser.error("a folder to write into, or --compare A B")
    return measure(asked.out, asked.only)


if __name__ == "__main__":
    raise SystemExit(main())
