"""List and remove entries of the feature cache.

Examples:
    evaltk cache ls
    evaltk cache prune 3fa91c0d22e1      (entries whose name starts so)
    evaltk cache prune --older-than 30   (days since they were last written)
    evaltk cache prune --all
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from evaltk import files, safe_json
from evaltk.cli import _options
from evaltk.errors import SettingsError, printable


@dataclass(frozen=True, kw_only=True)
class Options:
    """List and remove entries of the feature cache.

    Attributes:
        action: list or remove.
        entries: names of entries, or how they start (default: all, for ls).
        older_than: remove entries last written more than N days ago.
        all: remove every entry.
        cache: folder of the cache (default: $EVALTK_HOME or ~/.cache/evaltk).
    """

    action: Annotated[Literal["ls", "prune"], tyro.conf.Positional]
    entries: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    older_than: float | None = field(default=None, metadata={"metavar": "N"})
    all: bool = False
    cache: Path | None = None


def main(argv: list[str]) -> int:
    """List or remove. Raises: SettingsError: prune without saying what."""
    from evaltk.checkpoints import catalog

    options = _options.parse(Options, argv, "cache", __doc__)
    root = options.cache or catalog.home()
    if root.exists() and not root.is_dir():
        do = "name the --cache of evaltk run"
        raise SettingsError(wanted="the folder of a cache", got="a file", where=root, do=do)
    if options.older_than is not None and options.older_than < 0:
        do = "--older-than 30, or --all"
        raise SettingsError(wanted="0 days or more", got=f"{options.older_than:g}", where="--older-than", do=do)
    folders = [
        folder
        for kind in ("features", "pixels")
        for folder in (sorted(p for p in (root / kind).iterdir() if p.is_dir()) if (root / kind).is_dir() else [])
    ]
    if options.action == "prune" and not (options.entries or options.older_than is not None or options.all):
        raise SettingsError(
            wanted="what to remove", got="nothing", where="evaltk cache prune", do="name entries, --older-than or --all"
        )
    unknown = [e for e in options.entries if not any(_name(folder).startswith(e) for folder in folders)]
    if unknown:
        got = ", ".join(unknown)
        raise SettingsError(wanted="beginnings of entries", got=got, where=root, do="evaltk cache ls shows them")
    shown, total = 0, 0
    for folder in folders:
        named = any(_name(folder).startswith(e) for e in options.entries)
        try:
            size = sum(file.stat().st_size for file in files.below(folder, "*"))
            days = (time.time() - folder.lstat().st_mtime) / 86400
        except FileNotFoundError:  # another program has removed or finished it meanwhile
            continue
        if options.action == "prune":
            old = options.older_than is not None and days > options.older_than
            if not (options.all or named or old):
                continue
            with files.storage_errors(folder):
                folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
        elif options.entries and not named:
            continue
        if options.action == "ls" and not shown:
            print("entry              size    last written  what it holds")
        shown, total = shown + 1, total + size
        print(f"{_name(folder)[:12]}  {size / 2**20:9.1f} MiB  {days:6.1f} days  {printable(_describe(folder))}")
    if shown or options.action == "prune" or not options.entries:
        from evaltk.progress import log

        entries = f"{shown} {'entry' if shown == 1 else 'entries'}, {total / 2**20:,.1f} MiB"
        removed, yet = (
            "removed " if options.action == "prune" else "",
            "" if root.is_dir() else ", which is not there yet",
        )
        log.info("%s%s in %s%s", removed, entries, root, yet)
    return 0


def _name(folder: Path) -> str:
    """The entry's name, also of one that was being joined when its run was killed."""
    return folder.name.lstrip(".")


def _describe(folder: Path) -> str:
    try:
        key = safe_json.parse((folder / "key.json").read_text(encoding="utf-8"))
        return f"{key['split']}, {key['recipe']}, {key['transform']}, {key['precision']}, weights {key['sha256'][:12]}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "decoded pixels (--pixels)" if folder.parent.name == "pixels" else "unfinished"
