"""Training images: a dataset's training split, any folder of images, or a zip file of one."""

from __future__ import annotations

import os
import threading
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias

import numpy as np
from PIL import Image

from evaltk import datasets
from evaltk.data import decoding, folders, own
from evaltk.data.decoding import Reading
from evaltk.data.encoded import EncodedSplit
from evaltk.data.images import Split
from evaltk.data.options import DataOptions
from evaltk.errors import DataError, SettingsError

CHECK_PATH = "check the path in --data"
SKIP_OR_RESTORE = "restore it, or skip some with --set data.skip_bad_images=N"
Bad: TypeAlias = tuple[str, str]  # an unreadable image's id; where it is and what is wrong with it


class Source(Protocol):
    """Images by number. Labels, if any, are used only for the k-NN accuracy in the log.

    left: {kind: files beside the images that are not read}, such as hidden ones and ``.heic``. empty: ids of the images
    whose files have no bytes.
    """

    @property
    def labels(self) -> np.ndarray | None: ...
    @property
    def empty(self) -> tuple[str, ...]: ...
    @property
    def left(self) -> Mapping[str, int]: ...

    def __len__(self) -> int: ...
    def open(self, index: int) -> Image.Image: ...
    def image_id(self, index: int) -> str: ...


class FolderSource:
    """All images below a folder, as evaluation finds them, sorted by path; labels are their folders, if several."""

    def __init__(self, path: Path, reading: Reading = decoding.SHOWN) -> None:
        if not path.is_dir():
            raise DataError(wanted="a folder of images", got="no such folder", where=path, do=CHECK_PATH)
        found, left = folders.walk(path, folders.suffixes(reading.show))
        sizes = {name.replace(os.sep, "/"): size for name, size, _ in found}
        self.names: Sequence[str] = sorted(sizes)
        self.left: Mapping[str, int] = left
        self.empty = tuple(name for name in self.names if not sizes[name])
        if not self.names:
            raise _no_images(left, path)
        self.path, self.reading, self.labels = path, reading, _labels(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def image_id(self, index: int) -> str:
        """The image's path below the folder."""
        return self.names[index]

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: cannot be decoded."""
        path = self.path / self.names[index]
        try:
            return decoding.rgb(path, self.reading)
        except DataError as error:
            raise _undecodable(error.got, path) from error


class ZipSource:
    """The images of a zip file, read without unpacking, in the order and with the labels of the zipped folder."""

    def __init__(self, path: Path, reading: Reading = decoding.SHOWN) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                inside = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
        except Exception as error:  # zipfile raises nearly anything for a damaged directory
            got = str(error)[:120] or type(error).__name__
            raise DataError(wanted="a zip file of images", got=got, where=path, do=CHECK_PATH) from error
        suffixes = folders.suffixes(reading.show)
        kinds = {name: _kind_in_zip(name, suffixes) for name in inside}
        self.names: Sequence[str] = sorted(name for name, kind in kinds.items() if kind is None)
        self.left: Mapping[str, int] = Counter(kind for kind in kinds.values() if kind is not None)
        self.empty = tuple(name for name in self.names if not inside[name])
        if not self.names:
            raise _no_images(self.left, path)
        self.path, self.reading, self.labels = path, reading, _labels(self.names)
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

    def read(self, index: int) -> bytes:
        """The image file's bytes. Raises: nearly anything where they are damaged."""
        if getattr(self._own, "process", None) != os.getpid():
            self._own.archive, self._own.process = zipfile.ZipFile(self.path), os.getpid()
        data: bytes = self._own.archive.read(self.names[index])
        return data

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: cannot be decoded."""
        where = f"{self.path}:{self.names[index][-200:]}"
        try:
            return decoding.rgb(self.read(index), self.reading, where=where)
        except DataError as error:
            raise _undecodable(error.got, where) from error
        except Exception as error:  # zipfile raises nearly anything on damaged bytes
            raise _undecodable(f"{type(error).__name__}: {error}", where) from error


def encoded(source: Source, index: int) -> tuple[bytes, Reading] | None:
    """The bytes of an image's file and how it is to be read; None: it has none of its own, or cannot be read."""
    try:
        if isinstance(source, FolderSource):
            return (source.path / source.names[index]).read_bytes(), source.reading
        if isinstance(source, ZipSource):
            return source.read(index), source.reading
        if isinstance(source, EncodedSplit):
            return source.encoded(index), source.reading
        if type(source) is Split and source.files is not None:  # others make something of what they read
            return ((source.root or Path()) / source.files[index]).read_bytes(), source.reading
    except Exception:  # noqa: BLE001 (zipfile raises nearly anything on damaged bytes; `open` reads it again, and tells)
        return None
    return None


def _kind_in_zip(name: str, suffixes: Sequence[str]) -> str | None:
    """How a file of a zip is counted among those left out; None: it is an image."""
    parts = PurePosixPath(name).parts
    if any(folders.is_hidden(part) or part.startswith("__MACOSX") for part in parts):
        return "hidden"
    return None if name.lower().endswith(tuple(suffixes)) else folders.kind_of(parts[-1])


def _no_images(left: Mapping[str, int], path: Path) -> DataError:
    there = folders.told(left)
    do = f"{CHECK_PATH}; convert others to JPEG or PNG" if there else CHECK_PATH
    return DataError(wanted="images", got=f"none, but {there}" if there else "none", where=path, do=do)


def _labels(names: Sequence[str]) -> np.ndarray | None:
    folders = [str(PurePosixPath(name).parent) for name in names]
    classes = {folder: i for i, folder in enumerate(sorted(set(folders)))}
    return np.array([classes[folder] for folder in folders]) if len(classes) > 1 else None


def _undecodable(got: str, where: object) -> DataError:
    return DataError(wanted="an image that can be decoded", got=got[:100], where=str(where), do=SKIP_OR_RESTORE)


def open_source(word: str, options: DataOptions | None = None) -> Source:
    """The images of a recipe's ``data.source``: a dataset's training split, ``folder=DIR`` or ``zip=FILE``.

    Args:
        options: what the user says of images of their own, as for evaluation.

    Raises: SettingsError: no source, a dataset without images, an option that it does not use. DataError: missing or
        unreadable.
    """
    options = options or DataOptions()
    if not word:
        raise SettingsError(
            wanted="training images", got="none", where="data.source",
            do="--data NAME=PATH, --data folder=DIR or --data zip=FILE",
        )  # fmt: skip
    kind, _, path = word.partition("=")
    if kind in ("zip", "folder"):
        unused = [flag for name, flag in options.given().items() if name not in ("show", "max_pixels")]
        if unused:
            do = "leave it out, or use imagefolder=DIR, csv=FILE, arrow=PATH or wds=SHARDS"
            raise SettingsError(wanted=f"--show or --max-pixels for {kind}=", got=unused[0], where="--data", do=do)
        location = own.expanded(path)
        return ZipSource(location, options.reading) if kind == "zip" else FolderSource(location, options.reading)
    datasets.check_options([word], options)
    dataset = datasets.load(word, options)
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


def told(source: Source, word: str) -> str:
    """How many images were found, of how many classes, and what was left out by kind, in words."""
    classes = 0 if source.labels is None else len(np.unique(source.labels))
    split = getattr(source, "name", "")
    found = f"{len(source):,} images in {word}" + (f" ({split})" if split else "")
    labels = f", {classes:,} classes" if classes else ", no labels"
    return f"{found}{labels}" + (f"; left out: {folders.told(source.left)}" if source.left else "")


def held_out(source: Source) -> list[str]:
    """The folders of a `FolderSource` that evaluation would test on, such as ``test``, where there is one to train on.

    Training on all images below such a folder includes the test images.
    """
    if not isinstance(source, FolderSource):
        return []
    tops = {name.partition("/")[0] for name in source.names if "/" in name}
    roles = {top: own.ROLE_OF.get(top) for top in tops}
    return sorted(top for top, role in roles.items() if role in ("val", "test")) if "train" in roles.values() else []
