"""`make evidence`: train and measure the cells of a suite that have no result yet, then write the page.

python -m benchmarks.evidence digits                      # resumes where it was cut off
python -m benchmarks.evidence digits --slice 2/4          # every fourth cell, for one of four machines
python -m benchmarks.evidence digits --group table1 --minutes 30
python -m benchmarks.evidence --page                      # only docs/evidence.md and its HTML, from the result files
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

from benchmarks.evidence import cells, cost, suite
from evaltk import files, processes, progress
from evaltk.errors import EvaltkError, SettingsError

HERE = Path(__file__).parent
LOG = "trials.jsonl"


def main(argv: list[str]) -> int:
    """Run a suite, or what the options name of it. Returns: 0, or 75 and 130 where a signal stopped it."""
    options = _parser().parse_args(progress.configured(argv))
    if not options.page:
        code = _run(options)
        if code:
            return code
    from benchmarks.evidence import page

    for path in page.write(options.results, options.docs):
        print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("suite", nargs="?", default="digits", help=f"a suite file: {', '.join(suite.names())}")
    parser.add_argument("--data", help="data of trainings and measures, NAME=PATH as for evaltk run")
    parser.add_argument("--group", action="append", help="only this group; may be repeated")
    parser.add_argument("--slice", default="1/1", help="I/N: every N-th cell, from the I-th on")
    parser.add_argument("--minutes", type=float, help="start no cell after this many minutes")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of result files")
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="folder of checkpoints and logs")
    parser.add_argument("--docs", type=Path, default=HERE.parents[1] / "docs", help="folder the page goes to")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--page", action="store_true", help="only write the page")
    return parser


def _run(options: argparse.Namespace) -> int:
    from evaltk.machine import resolve_device

    wanted = suite.load(options.suite, options.data)
    device = resolve_device(options.device, mps=False)
    mine = _chosen(wanted, options)
    left = [cell for cell in mine if not cells.done(options.results, cell)]
    progress.log.info("%s: %d of %d cells are done", wanted.name, len(mine) - len(left), len(mine))
    log = options.results / wanted.name / LOG
    started = time.monotonic()
    for number, cell in enumerate(left, 1):
        if options.minutes is not None and time.monotonic() - started > 60 * options.minutes:
            progress.log.info(
                "%g minutes are over; run again for the other %d cells", options.minutes, len(left) - number + 1
            )
            return 0
        try:
            found = cells.run(cell, results=options.results, runs=options.runs, device=device)
        except cells.Interrupted as stop:
            return stop.code
        with files.storage_errors(log), log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(cells.trial(cell, found)) + "\n")
        ended = f"diverged: {found['diverged']}" if found["diverged"] else f"k-NN {found.get('knn', 'not measured')}"
        progress.log.info("cell %d of %d, %s: %s", number, len(left), cell.name, ended)
    if wanted.cost and not (path := options.results / wanted.name / "cost.json").exists():
        files.write_text(path, json.dumps(cost.measure()) + "\n")
    return 0


def _chosen(wanted: suite.Suite, options: argparse.Namespace) -> list[suite.Cell]:
    groups = list(dict.fromkeys(cell.group for cell in wanted.cells))
    for name in options.group or ():
        if name not in groups:
            raise SettingsError(wanted="a group of the suite", got=repr(name), where="--group", do=", ".join(groups))
    part = re.fullmatch(r"(\d+)/(\d+)", options.slice)
    if part is None or not 1 <= int(part[1]) <= int(part[2]):
        raise SettingsError(wanted="I/N with 1 <= I <= N", got=options.slice, where="--slice", do="e.g. --slice 1/4")
    named = [cell for cell in wanted.cells if not options.group or cell.group in options.group]
    return named[int(part[1]) - 1 :: int(part[2])]


if __name__ == "__main__":
    try:
        with processes.ended_by_signals():
            code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except processes.Ended as end:
        code = end.exit_code
    except EvaltkError as error:
        print(f"evidence: {error}", file=sys.stderr)
        code = error.exit_code
    raise SystemExit(code)
