"""Training images: a dataset's training split, any folder of images, or a zip file of one."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image

from evaltk import datasets
from evaltk.data import decoding
from evaltk.data.images import EXTENSIONS
from evaltk.errors import DataError, SettingsError

CHECK_PATH = "check the path in --data"
SKIP_OR_RESTORE = "restore it, or skip some with --set data.skip_bad_images=N"


class Source(Protocol):
    """Images by number. Labels, if any, are used only for the k-NN accuracy in the log."""

    labels: np.ndarray | None

    def __len__(self) -> int: ...
    def open(self, index: int) -> Image.Image: ...
    def image_id(self, index: int) -> str: ...


class FolderSource:
    """All images below a folder, sorted by path; labels are their folders, if there are several."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise DataError(wanted="a folder of images", got="no such folder", where=path, do=CHECK_PATH)
        self.names: Sequence[str] = _images(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        if not self.names:
            ends = " ".join(EXTENSIONS)
            raise DataError(wanted=f"images ({ends})", got="none", where=path, do=CHECK_PATH)
        self.path, self.labels = path, _labels(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def image_id(self, index: int) -> str:
        """The image's path below the folder."""
        return self.names[index]

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: cannot be decoded."""
        path = self.path / self.names[index]
        try:
            return decoding.rgb(path, decoding.SHOWN)
        except DataError as error:
            raise _undecodable(error.got, path) from error


class ZipSource:
    """The images of a zip file, read without unpacking, in the order and with the labels of the zipped folder."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                self.names: Sequence[str] = _images(archive.namelist())
        except Exception as error:  # zipfile raises nearly anything for a damaged directory
            got = str(error)[:120] or type(error).__name__
            raise DataError(wanted="a zip file of images", got=got, where=path, do=CHECK_PATH) from error
        if not self.names:
            raise DataError(wanted="images in the zip file", got="none", where=path, do=CHECK_PATH)
        self.path, self.labels = path, _labels(self.names)
        self._own: Any = threading.local()  # a handle may not be shared between threads or forked processes

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_own": None}  # for workers that are spawned, not forked

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_own": threading.local()})

    def checksums(self) -> list[int]:
        """The CRC-32 of each image, as the archive states it."""
        with zipfile.ZipFile(self.path) as archive:
            return [archive.getinfo(name).CRC for name in self.names]

    def image_id(self, index: int) -> str:
        """The image's name in the zip file."""
        return self.names[index]

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: cannot be decoded."""
        if getattr(self._own, "process", None) != os.getpid():
            self._own.archive, self._own.process = zipfile.ZipFile(self.path), os.getpid()
        where = f"{self.path}:{self.names[index][-200:]}"
        try:
            data = self._own.archive.read(self.names[index])
            return decoding.rgb(data, decoding.SHOWN, where=where)
        except DataError as error:
            raise _undecodable(error.got, where) from error
        except Exception as error:  # zipfile raises nearly anything on damaged bytes
            raise _undecodable(f"{type(error).__name__}: {error}", where) from error


def _images(names: Any) -> list[str]:
    hidden = ("__MACOSX", ".")  # macOS metadata in zip files, and hidden files anywhere
    return sorted(
        name
        for name in names
        if name.lower().endswith(EXTENSIONS) and not any(part.startswith(hidden) for part in PurePosixPath(name).parts)
    )


def _labels(names: Sequence[str]) -> np.ndarray | None:
    folders = [str(PurePosixPath(name).parent) for name in names]
    classes = {folder: i for i, folder in enumerate(sorted(set(folders)))}
    return np.array([classes[folder] for folder in folders]) if len(classes) > 1 else None


def _undecodable(got: str, where: object) -> DataError:
    return DataError(wanted="an image that can be decoded", got=got[:100], where=str(where), do=SKIP_OR_RESTORE)


def open_source(word: str) -> Source:
    """The images of a recipe's ``data.source``: a dataset's training split, ``folder=DIR`` or ``zip=FILE``.

    Raises: SettingsError: no source, or a dataset without images. DataError: missing or unreadable.
    """
    if not word:
        raise SettingsError(
            wanted="training images", got="none", where="data.source",
            do="--data NAME=PATH, --data folder=DIR or --data zip=FILE",
        )  # fmt: skip
    kind, _, path = word.partition("=")
    if kind in ("zip", "folder"):
        location = Path(path).expanduser()
        return ZipSource(location) if kind == "zip" else FolderSource(location)
    dataset = datasets.load(word)
    if dataset.KIND != "images":
        raise SettingsError(
            wanted="an image classification dataset",
            got=dataset.KIND,
            where="data.source",
            do="use one with a training split, folder=DIR or zip=FILE",
        )
    if not len(dataset.train):
        got = f"no {dataset.train.name}/ in {dataset.name}"
        raise DataError(wanted="training images", got=got, where="data.source", do=CHECK_PATH)
    source: Source = dataset.train
    return source
