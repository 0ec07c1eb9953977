"""List protocols, datasets, checkpoints or table layouts.

Words after the kind keep the entries that contain all of them, in the name or in what is said of it.

Examples:
    evaltk ls datasets
    evaltk ls checkpoints mae
    evaltk ls checkpoints resnet50 swav
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from evaltk import plugins
from evaltk.cli import _options
from evaltk.cli._options import WIDTH
from evaltk.errors import SettingsError

if TYPE_CHECKING:
    from evaltk.checkpoints.catalog import Entry

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to list.

    Attributes:
        kind: what to list.
        words: list only what contains each of them.
        plugin: Python file with protocols or datasets of your own.
    """

    kind: Annotated[Literal["protocols", "datasets", "checkpoints", "tables"], tyro.conf.Positional] = field(
        metadata={"metavar": "protocols|datasets|checkpoints|tables"}
    )
    words: Annotated[tuple[str, ...], tyro.conf.Positional] = field(default=(), metadata={"metavar": "[WORD ...]"})
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = field(default=(), metadata={"metavar": "FILE.py"})


# Kind, sizes, classes and metric of datasets that have no OFFICIAL counts.
SUMMARIES = {
    "ade20k": ("masks", "20,210/2,000", "150", "mIoU"),
    "arrow": ("images", "your own", "any", "top-1"),
    "cifar10": ("images", "50,000/10,000", "10", "top-1"),
    "cifar100": ("images", "50,000/10,000", "100", "top-1"),
    "copydays": ("copies", "157 + 3,055", "-", "mAP"),
    "csv": ("images", "your own", "any", "top-1"),
    "davis2016": ("sequences", "20 videos", "-", "J&F"),
    "davis2017": ("sequences", "30 videos", "-", "J&F"),
    "digits": ("images", "1,000/797", "10", "top-1"),
    "imagefolder": ("images", "your own", "any", "top-1"),
    "imagenet": ("images", "1,281,167/50,000", "1,000", "top-1"),
    "masks": ("masks", "your own", "any", "mIoU"),
    "roxford5k": ("retrieval", "4,993 + 70 queries", "-", "mAP"),
    "rparis6k": ("retrieval", "6,322 + 70 queries", "-", "mAP"),
    "voc2012": ("masks", "10,582/1,449", "21", "mIoU"),
    "wds": ("images", "your own", "any", "top-1"),
}


def main(argv: list[str]) -> int:
    """Print a table. Raises: SettingsError: no entry contains all the words."""
    plugins.use(plugins.named_in(argv))
    options = _options.parse(Options, argv, "ls", __doc__)
    print("\n".join(LISTS[options.kind](tuple(word.casefold() for word in options.words))))
    return 0


def _kept(rows: Iterable[Row], words: Sequence[str], text: Callable[[Row], str]) -> list[Row]:
    """The rows whose text contains all words. Raises: SettingsError: none does."""
    kept = [row for row in rows if all(word in text(row).casefold() for word in words)]
    if not kept:
        got = f"none that contains {' and '.join(map(repr, words))}"
        raise SettingsError(wanted="an entry to list", got=got, do="leave a word out")
    return kept


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> list[str]:
    """Aligned columns under their heads; `right` names those that are aligned to the right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    return [
        "  ".join(
            cell.rjust(width) if head in right else cell.ljust(width)
            for cell, width, head in zip(row, widths, heads, strict=True)
        ).rstrip()
        for row in (heads, *rows)
    ]


def _described(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned columns whose last one is a sentence and wraps below itself."""
    *short, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for *names, text in rows:
        left = "".join(f"{name:<{width}}  " for name, width in zip(names, short, strict=True))
        lines += textwrap.wrap(left + text, WIDTH, subsequent_indent=" " * len(left), break_on_hyphens=False)
    return lines


def _protocols(words: Sequence[str]) -> list[str]:
    import protocols

    rows = _kept(((name, r.kind, r.summary) for name, r in sorted(protocols.registry().items())), words, " ".join)
    return [
        *_described([("name", "data", "what it measures"), *rows]),
        "",
        "settings: evaltk run --protocols NAME --help",
    ]


def _datasets(words: Sequence[str]) -> list[str]:
    from evaltk import datasets

    rows = [
        (name, *_summary(name), "needed" if record.needs_path else "none")
        for name, record in sorted(datasets.registry().items())
    ]
    rows = _kept(rows, words, " ".join)
    heads = ("name", "kind", "train/val/test", "classes", "metric", "path")
    about = "files of a dataset, and what is missing: evaltk datasets check NAME=PATH"
    added = [f"{name}: {record.summary}" for name, record in datasets.registry().items() if _summary(name)[0] == "-"]
    added = [line for line in added if line.partition(":")[0] in {row[0] for row in rows}]
    own = "your own images: evaltk datasets --help, docs/data.md"
    return [*_table(heads, rows, right=("classes",)), "", *added, about, own]


def _summary(name: str) -> tuple[str, str, str, str]:
    """(kind, sizes, classes, metric) of a dataset, as published."""
    try:
        official = getattr(importlib.import_module(f"evaltk.datasets.{name}"), "OFFICIAL", None)
    except ModuleNotFoundError:
        official = None
    if official is None:
        return SUMMARIES.get(name, ("-", "-", "-", "-"))
    metric = {"top1": "top-1", "mean_per_class": "per class"}[official.metric]
    return "images", "/".join(f"{size:,}" for size in official.counts.values()), f"{official.classes:,}", metric


def _checkpoints(words: Sequence[str]) -> list[str]:
    """The catalogue by method, in its order; folders on the hub last, under the address that stands for each."""
    from evaltk.checkpoints import catalog

    entries = _kept(catalog.load().values(), words, _about)
    hub = [entry for entry in entries if entry.url.startswith(catalog.HUB)]
    files = {entry.name: entry for entry in entries if entry not in hub}
    also: dict[str, list[str]] = {}  # files of the same net, which have no rows of their own
    for name in files:
        base, _, suffix = name.rpartition("_")
        if base in files and suffix in ("full", "linear", "linear4"):
            also.setdefault(base, []).append(suffix)
    folded = {f"{base}_{suffix}" for base, suffixes in also.items() for suffix in suffixes}
    known = [entry for entry in files.values() if entry.name not in folded]
    heads = ("name", "k-NN", "linear", "tuned", "class", "file", "also")
    first, *rows = _table(heads, [_checkpoint(e, also.get(e.name, ())) for e in known], right=heads[1:5])
    groups: dict[str, list[str]] = {}
    for entry, row in zip(known, rows, strict=True):
        groups.setdefault(f"{entry.method}: family {entry.family}, {entry.licence}", []).append(row)
    lines = [first] if known else []
    for title, group in groups.items():
        lines += ["", title, *group]
    if hub:
        widest = max(len(entry.url) for entry in hub)
        lines += ["", "On the Hugging Face hub: family hf, downloaded when they are named"]
        lines += [f"{entry.url:<{widest}}  {entry.title}" for entry in hub]
    return [*lines, *(CHECKPOINT_LEGEND if known else ())]


CHECKPOINT_LEGEND = (
    "",
    "k-NN, linear, tuned (the whole net fine-tuned), class (the file's own class head):",
    "published ImageNet-1K top-1 in %. file: here; fetch: evaltk fetch NAME downloads it; ask:",
    "not public, evaltk fetch NAME says how to get it. also: NAME_full is the training",
    "checkpoint with its heads, NAME_linear a linear classifier on frozen features.",
)


def _about(entry: Entry) -> str:
    return " ".join((entry.name, entry.family, entry.method, entry.title, entry.licence, entry.kind, entry.url))


def _checkpoint(entry: Entry, also: Sequence[str]) -> tuple[str, ...]:
    from evaltk.checkpoints import catalog

    figures = (entry.knn, entry.linear, entry.finetune, entry.class_head)
    there = "here" if catalog.local_path(entry).exists() else "fetch" if entry.fetchable else "ask"
    shown = ("-" if figure is None else f"{figure:.1f}" for figure in figures)
    return entry.name, *shown, there, " ".join(f"_{suffix}" for suffix in also)


def _tables(words: Sequence[str]) -> list[str]:
    from reports import layouts

    return _described(_kept(((name, layouts.load(name).title) for name in layouts.names()), words, " ".join))


LISTS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "protocols": _protocols,
    "datasets": _datasets,
    "checkpoints": _checkpoints,
    "tables": _tables,
}
