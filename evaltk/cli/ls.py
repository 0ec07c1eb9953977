"""List protocols, datasets, checkpoints or table layouts.

Examples:
    evaltk ls datasets
    evaltk ls checkpoints
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from evaltk import plugins
from evaltk.cli import _options
from evaltk.cli._options import WIDTH


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to list.

    Attributes:
        kind: what to list.
        plugin: Python file with protocols or datasets of your own.
    """

    kind: Annotated[Literal["protocols", "datasets", "checkpoints", "tables"], tyro.conf.Positional] = field(
        metadata={"metavar": "protocols|datasets|checkpoints|tables"}
    )
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = field(default=(), metadata={"metavar": "FILE.py"})


# Kind, sizes, classes and metric of datasets that have no OFFICIAL counts.
SUMMARIES = {
    "arrow": ("images", "your own", "any", "top-1"),
    "cifar10": ("images", "50,000/10,000", "10", "top-1"),
    "cifar100": ("images", "50,000/10,000", "100", "top-1"),
    "csv": ("images", "your own", "any", "top-1"),
    "davis2017": ("sequences", "30 videos", "-", "J&F"),
    "digits": ("images", "1,000/797", "10", "top-1"),
    "imagefolder": ("images", "your own", "any", "top-1"),
    "imagenet": ("images", "1,281,167/50,000", "1,000", "top-1"),
    "roxford5k": ("retrieval", "4,993 + 70 queries", "-", "mAP"),
    "rparis6k": ("retrieval", "6,322 + 70 queries", "-", "mAP"),
    "wds": ("images", "your own", "any", "top-1"),
}


def main(argv: list[str]) -> int:
    """Print a table."""
    plugins.use(plugins.named_in(argv))
    options = _options.parse(Options, argv, "ls", __doc__)
    print("\n".join(LISTS[options.kind]()))
    return 0


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


def _protocols() -> list[str]:
    import protocols

    rows = [(name, record.kind, record.summary) for name, record in sorted(protocols.registry().items())]
    return [
        *_described([("name", "data", "what it measures"), *rows]),
        "",
        "settings: evaltk run --protocols NAME --help",
    ]


def _datasets() -> list[str]:
    from evaltk import datasets

    rows = [
        (name, *_summary(name), "needed" if record.needs_path else "none")
        for name, record in sorted(datasets.registry().items())
    ]
    heads = ("name", "kind", "train/val/test", "classes", "metric", "path")
    about = "files of a dataset, and what is missing: evaltk datasets check NAME=PATH"
    added = [f"{name}: {record.summary}" for name, record in datasets.registry().items() if _summary(name)[0] == "-"]
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


def _checkpoints() -> list[str]:
    from evaltk.checkpoints import catalog

    rows = [
        (
            name,
            entry.kind.replace("_", " "),
            *(f"{figure:.1f}" if figure else "-" for figure in (entry.knn, entry.linear)),
            entry.licence,
            "yes" if catalog.local_path(entry).exists() else "no",
        )
        for name, entry in sorted(catalog.load().items())
    ]
    heads = ("name", "kind", "k-NN", "linear", "licence", "here")
    return [*_table(heads, rows, right=("k-NN", "linear")), "", "download: evaltk fetch NAME"]


def _tables() -> list[str]:
    from reports import layouts

    return _described([(name, layouts.load(name).title) for name in layouts.names()])


LISTS: dict[str, Callable[[], list[str]]] = {
    "protocols": _protocols,
    "datasets": _datasets,
    "checkpoints": _checkpoints,
    "tables": _tables,
}
