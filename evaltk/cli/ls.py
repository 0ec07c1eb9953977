"""List what there is: protocols, datasets, checkpoints or tables, with what each needs.

Examples:
    evaltk ls datasets
    evaltk ls checkpoints
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from evaltk import plugins


@dataclass(frozen=True, kw_only=True)
class Options:
    """List what there is.

    Attributes:
        kind: protocols, datasets, checkpoints or tables.
        plugin: a Python file with protocols or datasets of your own (docs/extending.md).
    """

    kind: Annotated[Literal["protocols", "datasets", "checkpoints", "tables"], tyro.conf.Positional]
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()


def main(argv: list[str]) -> int:
    """Print one line each."""
    plugins.use(plugins.named_in(argv))
    options = tyro.cli(Options, args=argv, prog="evaltk ls", description=__doc__)
    rows = {"protocols": _protocols, "datasets": _datasets, "checkpoints": _checkpoints, "tables": _tables}[
        options.kind
    ]()
    width = max((len(name) for name, _ in rows), default=0)
    for name, line in rows:
        print(f"{name:<{width}}  {line}")
    return 0


def _protocols() -> list[tuple[str, str]]:
    import protocols

    return [(name, protocol.summary) for name, protocol in sorted(protocols.registry().items())]


def _datasets() -> list[tuple[str, str]]:
    from evaltk import datasets

    return [(name, f"{spec.summary} {spec.where}") for name, spec in sorted(datasets.registry().items())]


def _checkpoints() -> list[tuple[str, str]]:
    from evaltk.checkpoints import catalog

    rows = []
    for name, entry in sorted(catalog.load().items()):
        figures = [f"{label} {value:g}" for label, value in (("k-NN", entry.knn), ("linear", entry.linear)) if value]
        here = "fetched" if catalog.local_path(entry).exists() else "not fetched"
        rows.append((name, ", ".join([f"{entry.title} ({entry.kind})", entry.licence, *figures, here])))
    return rows


def _tables() -> list[tuple[str, str]]:
    from reports import layouts

    return [(name, layouts.load(name).title) for name in layouts.names()]
