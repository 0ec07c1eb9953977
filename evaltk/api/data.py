"""Data as Python users have it: a word of ``--data``, a folder, PyTorch datasets, or one of evaltk's own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaltk import datasets
from evaltk.bench import AnyDataset
from evaltk.data import folders, images
from evaltk.data.galleries import folder_of_images
from evaltk.data.images import Split
from evaltk.data.options import DataOptions
from evaltk.data.torch_datasets import from_torch, from_torch_one
from evaltk.errors import DataError, SettingsError
from evaltk.progress import log

WHOLE = "all"  # the split of all images where there is one set
FOLDERS = "expected: FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"
WANTED = "data: a folder, NAME or NAME=PATH, (train, test) of PyTorch datasets, or one with split=0.2"


def load(data: Any, options: DataOptions, *, name: str = "images") -> AnyDataset:
    """The dataset that `data` stands for.

    Args:
        data: see `evaltk.evaluate`. options: the share to test on where `data` has no test split, and its seed.
        name: of PyTorch datasets, in results.

    Raises: SettingsError, DataError: something else, files that are missing, a dataset without a test split.
    """
    if isinstance(data, str | Path):
        word = word_of(data)
        datasets.check_options([word], options)
        return datasets.load(word, options)  # type: ignore[no-any-return]
    if _one_dataset(data):
        if options.split is None:
            do = "pass (train, test), or split=0.2 to test on a fifth of each class, drawn by seed"
            wanted, got = "a training and a test split", f"one dataset ({type(data).__name__})"
            raise SettingsError(wanted=wanted, got=got, where="data", do=do)
        return from_torch_one(data, name=_free(name), share=options.split, seed=options.seed)
    if options.split is not None:
        wanted, got = "one set of images to split", "data with a test split of its own"
        raise SettingsError(wanted=wanted, got=got, where="split", do="leave split out")
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(_one_dataset, data)):
        return from_torch(data[0], data[1], name=_free(name))
    if not (hasattr(data, "KIND") and hasattr(data, "fingerprint")):
        do = 'evaltk.evaluate(model, "photos/", ...)'
        raise DataError(wanted=WANTED, got=type(data).__name__, where="data", do=do)
    found: AnyDataset = data
    return found


def any_images(data: Any, options: DataOptions, *, name: str = "images") -> AnyDataset | Split:
    """As `load`; besides, all images of a folder (class folders or not) or of one PyTorch dataset, as one split.

    Raises: SettingsError, DataError: as `load`.
    """
    if options.split is not None:
        return load(data, options, name=name)
    if (folder := _folder(data)) is not None and not (folder / "train").is_dir():
        label = _free(_label(folder))
        if any(one.is_dir() and not one.name.startswith(".") for one in folder.iterdir()):
            root = folder.resolve()
            classes = images.class_folders(root, get=FOLDERS)
            suffixes = folders.suffixes(options.reading.show)
            found = images.from_folder(label, root.name, root.parent, classes, get=FOLDERS, suffixes=suffixes)
            if found.left:
                log.info("%s", images.counts(found))
            return replace(images.read_as(found, options.reading), name=WHOLE)
        return replace(
            images.read_as(folder_of_images(folder, suffixes=folders.READABLE), options.reading),
            dataset=label,
            name=WHOLE,
        )
    if _one_dataset(data):
        return replace(from_torch(data, data, name=_free(name)).train, name=WHOLE)
    return load(data, options, name=name)


def _one_dataset(data: Any) -> bool:
    """Whether it looks like a PyTorch dataset."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, tuple | list | dict | str)


def _folder(data: Any) -> Path | None:
    """The folder that a path, or a text that is no word of ``--data``, names; None for anything else."""
    if not isinstance(data, str | Path):
        return None
    text, path = str(data), Path(data).expanduser()
    if isinstance(data, str) and ("=" in text or text.rpartition(":")[2] in datasets.registry()):
        return None
    return path if path.is_dir() else None


def _label(folder: Path) -> str:
    return re.sub("[:=]", "-", folder.resolve().name) or "images"


def word_of(data: str | Path) -> str:
    """The word of ``--data`` for a word, or for a folder with train/ and test/ or val/."""
    folder = _folder(data)
    if folder is None and (isinstance(data, Path) or ("/" in data and "=" not in data)):
        raise DataError(wanted="a folder of images", got="no such folder", where=data, do=FOLDERS)
    return str(data) if folder is None else f"{_free(_label(folder))}:imagefolder={folder}"


def _free(label: str) -> str:
    """A label that is no dataset's name: published numbers stand beside those."""
    return f"my-{label}" if label in datasets.registry() else label
