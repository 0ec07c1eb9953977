"""Check whether datasets are complete, or fetch a public one.

`fetch` downloads aircraft, cifar10, cifar100, davis2017, dtd, flowers102, food101, pets or sun397 into a folder. It
says source, licence and size first, and compares the file with its published checksum.

Examples:
    evaltk datasets fetch cifar10 /data/cifar10
    evaltk datasets check pets=/data/oxford-iiit-pet dtd=/data/dtd
    evaltk datasets check my-photos:imagefolder=~/photos --no-contents
    evaltk datasets check photos:csv=~/photos/labels.csv --split 0.2
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from evaltk.cli import _options
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import SHORT, printable

if TYPE_CHECKING:
    from evaltk.data.images import Dataset

GROUPS = {"Options": "options", "DataFlags": "your own images"}
METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}


@dataclass(frozen=True, kw_only=True)
class Options(DataFlags):
    """Check datasets.

    Attributes:
        action: check or fetch.
        data: datasets to check (evaltk ls datasets), or NAME DIR to fetch.
        seed: of the draw of --split, as for evaltk run.
        contents: decode the first image of each split, and look for test images that are in the training split too.
    """

    action: Annotated[Literal["check", "fetch"], tyro.conf.Positional]
    data: Annotated[tuple[str, ...], tyro.conf.Positional] = field(metadata={"metavar": "[LABEL:]NAME=PATH ..."})
    seed: int = 0
    contents: bool = True


def main(argv: list[str]) -> int:
    """Print what each dataset has; exit 2 where one cannot be used."""
    from evaltk import datasets
    from evaltk.errors import EvaltkError, SettingsError
    from evaltk.progress import log

    options = _options.parse(Options, argv, "datasets", __doc__, groups=GROUPS)
    if options.action == "fetch":
        return _fetch(options.data)
    if not options.data:
        do = "evaltk datasets check NAME=PATH; evaltk ls datasets"
        raise SettingsError(wanted="datasets to check", got="none", where="evaltk datasets check", do=do)
    own, unusable = DataOptions.of(options, options.seed), 0
    datasets.check_options(options.data, own)
    for word in options.data:
        try:
            print("\n".join(_report(datasets.load(word, own), options.contents)))
        except EvaltkError as error:
            sys.stdout.flush()
            log.error("%s: %s", word.partition("=")[0][:SHORT], error)
            unusable += 1
    return 2 if unusable else 0


def _fetch(words: tuple[str, ...]) -> int:
    """Fetch one dataset and say how to use it. Raises: EvaltkError."""
    from evaltk import datasets
    from evaltk.cli import _dataset_files
    from evaltk.errors import SettingsError
    from evaltk.progress import log

    known = _dataset_files.table()
    if len(words) != 2:
        do = f"evaltk datasets fetch NAME DIR; names: {', '.join(known)}"
        raise SettingsError(
            wanted="a name and a folder", got=f"{len(words)} words", where="evaltk datasets fetch", do=do
        )
    name, folder = words[0], Path(words[1]).expanduser()
    root = _dataset_files.fetch(name, folder, known=known, say=lambda text: log.info("%s", text))
    word = f"{name}={root}"
    print("\n".join(_report(datasets.load(word), contents=False)))
    log.info("use it: --data %s", shlex.quote(word))
    return 0


def _report(dataset: Any, contents: bool) -> list[str]:
    """Sizes, deviations and notes, line by line. Raises: DataError: it cannot be used."""
    from evaltk.data import sanity

    sizes = [f"{split.name} {len(split):,} images" for split in dataset.splits]
    if dataset.KIND in ("masks", "copies"):
        sizes = [f"{name} {number:,} images" for name, number in dataset.sizes.items()]
    lines = [
        f"{dataset.name}: {', '.join(sizes) or dataset.KIND}",
        *(d.words() for d in dataset.deviations),
        *dataset.notes,
    ]
    if dataset.KIND == "images":
        sanity.check_names(dataset)
        lines[1:1] = _images(dataset)
        lines += _contents(dataset) if contents else ()
    return [printable(lines[0]), *(f"  {printable(line)}" for line in lines[1:])]


def _images(dataset: Dataset) -> list[str]:
    val = "" if dataset.val is None else f", {int(dataset.val.sum()):,} of {dataset.train.name} are official validation"
    empty = [f"{len(s.empty)} empty files in {s.name}, the first {s.empty[0]}" for s in dataset.splits if s.empty]
    return [f"{len(dataset.train.classes)} classes, reported by {METRICS[dataset.metric]}{val}", *empty]


def _contents(dataset: Dataset) -> tuple[str, ...]:
    from evaltk.data import overlap

    for split in dataset.splits:
        if len(split):
            split.open(0)
    shared = tuple(deviation.words() for deviation in overlap.check(dataset))
    return shared or (f"no image of {dataset.test.name} is in {dataset.train.name} too",)
