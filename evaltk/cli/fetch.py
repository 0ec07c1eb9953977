"""Download published checkpoints and check their sha256.

Prints the path and the sha256 of each, separated by a tab. Files that are there are only checked, and interrupted
downloads are resumed. `evaltk ls checkpoints` lists the names; of a file without a public address, fetch says how to
get it and where to put it.

Examples:
    evaltk fetch mae_vitb16
    evaltk fetch dino_vits16_full ibot_vitb16 --home /data/evaltk
    evaltk fetch our_vit --catalog our_checkpoints.toml
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evaltk.cli import _options


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `evaltk fetch` is told.

    Attributes:
        names: names of the catalogue.
        catalog: a catalogue of your own, in the form of evaltk/checkpoints/catalog.toml; its entries take precedence.
        home: folder to download to, instead of $EVALTK_HOME, $XDG_CACHE_HOME/evaltk or ~/.cache/evaltk.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional]
    catalog: Path | None = None
    home: Path | None = None


def main(argv: list[str]) -> int:
    """Fetch the named checkpoints; 0 when all are there. Raises: SettingsError, DownloadError, StorageError."""
    from evaltk.checkpoints import catalog
    from evaltk.errors import SettingsError

    options = _options.parse(Options, argv, "fetch", __doc__)
    if not options.names:
        raise SettingsError(wanted="names of checkpoints", got="none", do="evaltk ls checkpoints shows them")
    # All names are looked up before the first byte is downloaded.
    for entry in [catalog.find(name, options.catalog) for name in options.names]:
        path = catalog.fetch(entry, home=options.home)
        print(path, catalog.pins(home=options.home)[entry.name]["sha256"], sep="\t", flush=True)
    return 0
