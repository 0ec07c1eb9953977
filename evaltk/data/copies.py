"""Benchmarks of copy detection: originals, and blocks of altered copies that are to find them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from evaltk.data.galleries import Photographs
from evaltk.data.images import Split
from evaltk.deviations import Deviation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Copies:
    """Originals and their copies.

    Attributes:
        originals: the images that are searched. blocks: {strength, such as ``crops/50``: its copies}, the queries.
        positives: {strength: for each copy the numbers of its originals}.
    """

    KIND: ClassVar[str] = "copies"

    name: str
    originals: Photographs
    blocks: Mapping[str, Photographs]
    positives: Mapping[str, tuple[tuple[int, ...], ...]]
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Of names and sizes of all files, the same on every machine."""
        prints = (self.originals.fingerprint, *(f"{name}{one.fingerprint}" for name, one in self.blocks.items()))
        return hashlib.sha256("\0".join(prints).encode()).hexdigest()

    @property
    def stamp(self) -> str:
        """Of modification times, on this machine."""
        stamps = (self.originals.stamp, *(one.stamp for one in self.blocks.values()))
        return hashlib.sha256("\0".join(stamps).encode()).hexdigest()

    @property
    def splits(self) -> tuple[Split, ...]:
        """None: what to extract depends on the protocol's settings."""
        return ()

    @property
    def sizes(self) -> dict[str, int]:
        """Images by block."""
        return {"original": len(self.originals)} | {name: len(one) for name, one in self.blocks.items()}
