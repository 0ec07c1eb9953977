"""List, filter, export, merge and import results.

``ls`` prints a line a result, ``export`` writes every score to FILE (.csv, .jsonl or .parquet), ``merge`` copies the
results of several folders into one, ``import`` puts others' figures beside ours, marked as theirs.

Examples:
    evaltk results ls --where "protocol=knn and arch~vit_small"
    evaltk results export scores.parquet --where "dataset=cifar10 and value>0.9"
    evaltk results merge node1/runs node2/runs --runs runs
    evaltk results import table2.csv --source "DINO (2021), table 2" --percent
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from evaltk.cli import _options
from evaltk.errors import SettingsError, StorageError, printable

if TYPE_CHECKING:
    from evaltk.results.rows import Row
    from evaltk.types import Result

SHOWN = ("checkpoint", "protocol", "dataset", "metric", "value", "at", "path")
MOST = 20  # duplicates to list


@dataclass(frozen=True, kw_only=True)
class Options:
    """List, filter, export, merge and import results.

    Attributes:
        action: ls, export, merge or import.
        names: FILE to write (export) or read (import), FOLDERs (merge).
        runs: results folder; where merge and import put what they have.
        where: columns with = != ~ (a regular expression) !~ < <= > >=, and, or, not, parentheses. Columns: checkpoint,
            arch, family, epoch, protocol, version, dataset, split, metric, at, value, low, high, n, precision, seed,
            settings, date, device, source, digest, request, path.
        all: ls: every score, not the headline alone.
        failed: ls: the cells that failed, instead.
        source: import: whose figures they are.
        percent: import: they are percentages.
    """

    action: Annotated[Literal["ls", "export", "merge", "import"], tyro.conf.Positional]
    names: Annotated[tuple[Path, ...], tyro.conf.Positional] = field(default=(), metadata={"metavar": "PATH ..."})
    runs: Path = Path("runs")
    where: str | None = field(default=None, metadata={"metavar": "CONDITION"})
    all: bool = False
    failed: bool = False
    source: str | None = field(default=None, metadata={"metavar": "TEXT"})
    percent: bool = False


def main(argv: list[str]) -> int:
    """Do it. Returns: 2 where merged results contradict each other. Raises: EvaltkError."""
    options = _options.parse(Options, argv, "results", __doc__)
    _check(options)
    if options.action == "ls":
        return _failed(options) if options.failed else _ls(options)
    if options.action == "export":
        return _export(options)
    return _merge(options) if options.action == "merge" else _import(options)


def _check(options: Options) -> None:
    """Raises: SettingsError: too many or few names, flags of another action."""
    count = {"ls": (0, 0), "export": (1, 1), "merge": (1, 1000), "import": (1, 1)}[options.action]
    if not count[0] <= len(options.names) <= count[1]:
        wanted = {"ls": "no names", "merge": "folders to merge"}.get(options.action, "one file")
        got = f"{len(options.names)}"
        where = f"evaltk results {options.action}"
        raise SettingsError(wanted=wanted, got=got, where=where, do="evaltk results --help")
    of = {"where": ("ls", "export"), "all": ("ls",), "failed": ("ls",), "source": ("import",), "percent": ("import",)}
    for f in dataclasses.fields(options):
        if getattr(options, f.name) != f.default and options.action not in of.get(f.name, (options.action,)):
            do = f"it belongs to {' and '.join(of[f.name])}"
            where = f"evaltk results {options.action}"
            raise SettingsError(wanted="flags of this action", got=f"--{f.name}", where=where, do=do)


def _found(options: Options, *, headlines: bool) -> list[Row]:
    """The rows of the folder that fit. Raises: StorageError: no results. SettingsError: a condition that is none."""
    from evaltk import results
    from evaltk.progress import log
    from evaltk.results import rows

    fits = rows.where(options.where) if options.where is not None else (lambda row: True)
    found: list[Row] = []
    read = 0
    for path, result in results.find(options.runs, skip=lambda path, why: log.warning("skipped %s: %s", path, why)):
        read += 1
        chosen = dataclasses.replace(result, scores=_headline(result)) if headlines else result
        found += [row for row in rows.of(path, chosen) if fits(row)]
    if not read:
        raise StorageError(
            wanted="results", got="none", where=options.runs, do="evaltk run first, or name another --runs"
        )
    return found


def _headline(result: Result) -> tuple:  # type: ignore[type-arg]
    # Of k-NN, the k that was chosen on training images, else the best one.
    score = max(result.scores, key=lambda s: (s.metric.endswith("chosen_k"), s.metric.endswith("best_k")), default=None)
    return () if score is None else (score,)


def _ls(options: Options) -> int:
    found = _found(options, headlines=not options.all)
    lines = [[_shown(row, name) for name in SHOWN] for row in found]
    widths = [max((len(line[n]) for line in lines), default=0) for n in range(len(SHOWN) - 1)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, [*widths, 0], strict=True)).rstrip())
    return 0


def _shown(row: Row, name: str) -> str:
    value = row[name]
    if name == "value" and isinstance(value, float):
        low, high = row["low"], row["high"]
        return f"{value:.4f}" + (f" [{low:.4f}, {high:.4f}]" if low is not None and high is not None else "")
    if name == "at":
        import json

        return printable(", ".join(f"{key} {one}" for key, one in json.loads(str(value)).items()))
    return "" if value is None else str(value)


def _failed(options: Options) -> int:
    from evaltk.running import failures

    for path, failure in failures.find(options.runs):
        print(printable(f"{failure.title()}: {failure.message} ({failure.at} on {failure.node}; {path})"))
    return 0


def _export(options: Options) -> int:
    from evaltk.results import rows

    rows.check_path(options.names[0])
    found = _found(options, headlines=False)
    rows.write(options.names[0], found)
    print(f"{options.names[0]}: {len(found):,} scores of {len({row['path'] for row in found}):,} results")
    return 0


def _merge(options: Options) -> int:
    from evaltk.progress import log
    from evaltk.results import merging

    def skip(path: Path, why: str) -> None:
        log.warning("skipped %s: %s", path, why)

    merged = merging.merge(options.names, options.runs, skip=skip)
    for title, pairs in (("duplicate", merged.duplicates), ("conflict", merged.conflicts)):
        listed: Sequence[tuple[Path, Path]] = pairs if title == "conflict" else pairs[:MOST]
        for first, other in listed:
            says = "says the same" if title == "duplicate" else "differs"
            print(printable(f"{title}: {other} is left out; {first} {says}"))
        if len(listed) < len(pairs):
            print(f"... and {len(pairs) - len(listed)} more duplicates")
    told = f"{len(merged.duplicates)} duplicates, {len(merged.conflicts)} conflicts"
    print(f"{options.runs}: {len(merged.kept)} results added, {told}")
    if merged.conflicts:
        log.error("results of one request differ: see above; the first of each is kept")
    return 2 if merged.conflicts else 0


def _import(options: Options) -> int:
    from evaltk import results
    from evaltk.results import foreign

    made = list(foreign.results(foreign.read(options.names[0]), options.source or "", percent=options.percent))
    for result in made:
        name = str(result.checkpoint["name"])
        path = results.path_of(options.runs, name, result.protocol, result.data.name, result.request)
        results.write(path, result, {})
        print(printable(str(path)))
    return 0
