"""Datasets, one file each. The folder is the registry.

Each file defines `DATASET`, a `DatasetSpec`. Datasets are also found through the entry points ``evaltk.datasets`` of
installed packages and in plug-in files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evaltk.data import images, own
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import DataError, SettingsError, nearest
from evaltk.plugins import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """A dataset that can be loaded.

    Attributes:
        name: what ``--data`` calls it.
        where: the layout expected and where to get it; printed where files are missing.
        load: (root, label) -> the dataset: an `evaltk.data.images.Dataset`, or one of another kind (see
            `evaltk.bench.AnyDataset`). `root` is the folder named, or None; `label` is the name used in results.
        needs_path: whether ``--data`` names a folder; where it is not needed it is refused.
        takes: what the path names: a ``folder``, or ``files``, which `load` looks for by itself.
        options: fields of `DataOptions` that it uses; where there are some, `load` gets the options as third argument.
        doc: what it contains; the first line is what `evaltk ls datasets` prints.
    """

    name: str
    where: str
    load: Callable[..., Any]
    needs_path: bool = True
    takes: Literal["folder", "files"] = "folder"
    options: tuple[str, ...] = ()
    doc: str | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"DatasetSpec.name is a Python identifier, not {self.name!r}")
        if not (isinstance(self.where, str) and self.where):
            raise ValueError(f"{self.name}: DatasetSpec.where is a text, not {self.where!r}")
        if not callable(self.load):
            raise TypeError(f"{self.name}: DatasetSpec.load is a function, not {self.load!r}")
        if strange := set(self.options) - {field.name for field in dataclasses.fields(DataFlags)}:
            raise ValueError(f"{self.name}: DatasetSpec.options are fields of DataFlags, not {sorted(strange)}")

    @property
    def summary(self) -> str:
        """What it contains, in a line."""
        return (self.doc or self.name).strip().splitlines()[0]


REGISTRY = Registry(record=DatasetSpec, constant="DATASET", package=__name__)


def registry() -> dict[str, DatasetSpec]:
    """{name: dataset}. Raises: SettingsError: a record that is missing or claims another's name."""
    return REGISTRY.records()


def parse(text: str) -> tuple[str, str, Path | None]:
    """``NAME``, ``NAME=PATH`` or ``LABEL:NAME=PATH`` as (label, name, path).

    Raises: SettingsError: an unknown name, or a path missing where one is needed.
    """
    left, _, path = text.partition("=")
    label, _, name = left.rpartition(":")
    known = registry()
    if name not in known:
        raise SettingsError(
            wanted="a dataset",
            got=repr(name),
            where="--data",
            do=f"{nearest(name, known)}; your own folder: --data LABEL:imagefolder=PATH",
        )
    if known[name].needs_path and not path:
        raise SettingsError(
            wanted=f"where {name} lies",
            got="no path",
            where="--data",
            do=f"--data {left}=PATH; {known[name].where}",
        )
    if path and not known[name].needs_path:
        do = f"--data {left}, or for your own files --data LABEL:imagefolder={path}"
        raise SettingsError(wanted=f"no path for {name}", got=path, where="--data", do=do)
    if label != name and label in known:  # tables put published numbers beside a dataset's name
        do = f"--data my-{label}:{name}={path}"
        raise SettingsError(wanted="a label that is no dataset's name", got=repr(label), where="--data", do=do)
    return label or name, name, own.expanded(path) if path else None


def load(text: str, options: DataOptions | None = None) -> Any:
    """The dataset a ``--data`` word names. Raises: SettingsError, DataError: before any image is read.

    Args:
        options: what the user says of files of their own; datasets that do not use them are loaded as ever.
    """
    label, name, path = parse(text)
    spec = registry()[name]
    try:
        if path is not None and spec.takes == "folder" and not path.is_dir():
            raise DataError(
                wanted=f"the folder of {name}",
                got="a file" if path.exists() else "no such folder",
                where=path,
                do=spec.where,
            )
        if not spec.options:
            return images.noted(spec.load(path, label))
        options = options or DataOptions()
        found = spec.load(path, label, options)
        return images.own(found, options.reading) if "show" in spec.options else found
    except OSError as error:  # such as a folder that may not be read
        do = "check the path and the right to read it"
        raise DataError(wanted=f"the files of {name}", got=str(error), where=path, do=do) from error


def check_options(words: Sequence[str], options: DataOptions) -> None:
    """Check that some dataset of the ``--data`` words uses each option given. Raises: SettingsError: none does."""
    known = registry()
    used = {option for word in words for option in known[parse(word)[1]].options}
    for field, flag in options.given().items():
        if field not in used:
            takers = ", ".join(sorted(name for name, spec in known.items() if field in spec.options))
            got = ", ".join(parse(word)[1] for word in words)
            raise SettingsError(wanted=f"one of {takers} for {flag}", got=got, where=flag, do="leave it out")
