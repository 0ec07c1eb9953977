"""Download public checkpoints of the catalogue; each is pinned to the sha256 of its first download.

Prints one line per checkpoint: its path, a tab, its sha256. Files already downloaded are only verified, and interrupted
downloads resume. `evaltk ls checkpoints` shows the names.

Examples:
    evaltk fetch dino_vits16
    evaltk fetch dino_vits16_full ibot_vitb16 --home /data/evaltk
    evaltk fetch our_vit --catalog our_checkpoints.toml
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `evaltk fetch`.

    Attributes:
        names: names of the catalogue.
        catalog: a catalogue of your own, in the form of evaltk/checkpoints/catalog.toml; its entries take precedence.
        home: folder to download to, instead of $EVALTK_HOME, $XDG_CACHE_HOME/evaltk or ~/.cache/evaltk.
    """

    names: tuple[str, ...]
    catalog: Path | None = None
    home: Path | None = None


def main(argv: list[str]) -> int:
    """Fetch the named checkpoints; 0 when all are there. Raises: SettingsError, DownloadError, StorageError."""
    import tyro

    from evaltk.checkpoints import catalog
    from evaltk.errors import SettingsError

    config = (tyro.conf.PositionalRequiredArgs,)
    options = tyro.cli(Options, args=argv, prog="evaltk fetch", description=__doc__, config=config)
    if not options.names:
        raise SettingsError(wanted="names of checkpoints", got="none", do="evaltk ls checkpoints shows them")
    # All names are looked up before the first byte is downloaded.
    for entry in [catalog.find(name, options.catalog) for name in options.names]:
        path = catalog.fetch(entry, home=options.home)
        print(path, catalog.pins(home=options.home)[entry.name]["sha256"], sep="\t", flush=True)
    return 0
