"""Where images to learn from lie: a data set's training split, any folder of images, or a zip file of one."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image

from evaltk import datasets
from evaltk.data.images import EXTENSIONS
from evaltk.errors import DataError, SettingsError

ALLOW = "restore it, or allow some with data.skip_bad_images"


class Source(Protocol):
    """Images by number. Labels, where there are any, serve only the k-NN that watches the run."""

    labels: np.ndarray | None

    def __len__(self) -> int: ...
    def open(self, index: int) -> Image.Image: ...
    def image_id(self, index: int) -> str: ...


class FolderSource:
    """All images below a folder, in order of their paths; class folders, where there are several, give labels."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise DataError(wanted="a folder of images", got="no such folder", where=path, do="mend data.source")
        self.names: Sequence[str] = _images(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        if not self.names:
            ends = " ".join(EXTENSIONS)
            raise DataError(wanted=f"images ({ends})", got="none", where=path, do="mend data.source")
        self.path, self.labels = path, _labels(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def image_id(self, index: int) -> str:
        """The image's path below the folder."""
        return self.names[index]

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: it cannot be decoded."""
        path = self.path / self.names[index]
        try:
            with path.open("rb") as stream, Image.open(stream) as image:
                return image.convert("RGB")
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
            raise _undecodable(error, path) from error


class ZipSource:
    """The images of a zip file, read without unpacking, numbered and labelled as those of the folder it was made of."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                self.names: Sequence[str] = _images(archive.namelist())
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(wanted="a zip file of images", got=str(error), where=path, do="mend data.source") from error
        if not self.names:
            raise DataError(wanted="images in the zip file", got="none", where=path, do="mend data.source")
        self.path, self.labels = path, _labels(self.names)
        self._own: Any = threading.local()  # a handle may not be shared between threads or forked processes

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_own": None}  # for workers that are spawned, not forked

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_own": threading.local()})

    def image_id(self, index: int) -> str:
        """The image's name in the zip file."""
        return self.names[index]

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: it cannot be decoded."""
        if getattr(self._own, "process", None) != os.getpid():
            self._own.archive, self._own.process = zipfile.ZipFile(self.path), os.getpid()
        try:
            with Image.open(io.BytesIO(self._own.archive.read(self.names[index]))) as image:
                return image.convert("RGB")
        except Exception as error:  # as above
            raise _undecodable(error, f"{self.path}:{self.names[index]}") from error


def _images(names: Any) -> list[str]:
    hidden = ("__MACOSX", ".")  # what a Mac puts into a zip, and hidden files anywhere
    return sorted(
        name
        for name in names
        if name.lower().endswith(EXTENSIONS) and not any(part.startswith(hidden) for part in PurePosixPath(name).parts)
    )


def _labels(names: Sequence[str]) -> np.ndarray | None:
    folders = [str(PurePosixPath(name).parent) for name in names]
    classes = {folder: i for i, folder in enumerate(sorted(set(folders)))}
    return np.array([classes[folder] for folder in folders]) if len(classes) > 1 else None


def _undecodable(error: Exception, where: object) -> DataError:
    got = f"{type(error).__name__}: {error}"[:100]
    return DataError(wanted="an image that can be decoded", got=got, where=str(where), do=ALLOW)


def open_source(word: str) -> Source:
    """The images a recipe's ``data.source`` names: a data set's training split, ``folder=DIR`` or ``zip=FILE``.

    Raises: SettingsError, DataError: nothing named, or not there.
    """
    if not word:
        raise SettingsError(
            wanted="images to learn from", got="none", where="data.source",
            do="--data NAME=PATH, --data folder=DIR or --data zip=FILE",
        )  # fmt: skip
    kind, _, path = word.partition("=")
    if kind in ("zip", "folder"):
        here = Path(path).expanduser()
        return ZipSource(here) if kind == "zip" else FolderSource(here)
    found = datasets.load(word)
    if found.KIND != "images":
        raise SettingsError(wanted="a data set of images", got=found.KIND, where="data.source", do="name another")
    source: Source = found.train
    return source
