"""Checkpoint families, one file each. The folder is the registry.

Each file defines `FAMILY`, a `Family`. Families are also found through the entry points ``evaltk.families`` of
installed packages and in plug-in files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import SettingsError
from evaltk.plugins import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A way to read checkpoints: files of a layout, names of a scheme (``timm:NAME``), or both.

    Attributes:
        name: what ``--family`` and results call it.
        claims: (raw) -> whether a file has this family's layout; goes with `convert`.
        convert: (raw, options) -> what the file holds.
        scheme: the word before the colon; goes with `from_name`.
        from_name: (what follows the colon, options) -> what the name stands for.
        generic: it claims files that nothing identifies, and so yields to any other family that claims one.
    """

    name: str
    claims: Callable[[RawFile], bool] | None = None
    convert: Callable[[RawFile, ReadOptions], Converted] | None = None
    scheme: str | None = None
    from_name: Callable[[str, ReadOptions], Converted] | None = None
    generic: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"Family.name is a Python identifier, not {self.name!r}")
        if (self.claims is None) != (self.convert is None):
            raise ValueError(f"{self.name}: Family.claims goes with Family.convert")
        if (self.scheme is None) != (self.from_name is None):
            raise ValueError(f"{self.name}: Family.scheme goes with Family.from_name")
        if self.convert is None and self.from_name is None:
            raise ValueError(f"{self.name}: Family needs claims and convert, or scheme and from_name")


REGISTRY = Registry(record=Family, constant="FAMILY", package=__name__)


def load() -> dict[str, Family]:
    """{name: family}. Raises: SettingsError: a record that is missing or claims another's name or scheme."""
    known = REGISTRY.records()
    owners: dict[str, str] = {}
    for name, family in known.items():
        if family.scheme is not None and owners.setdefault(family.scheme, name) != name:
            raise SettingsError(
                wanted="a scheme of its own for each family",
                got=f"scheme {family.scheme!r} in both {owners[family.scheme]} and {name}",
                where=REGISTRY.entries()[name].owner,
                do="rename the scheme you added",
            )
    return known
