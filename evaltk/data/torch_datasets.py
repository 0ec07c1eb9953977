"""PyTorch datasets of (image, label) as datasets for protocols of kind ``images``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaltk import processes, progress
from evaltk.data import shares, torch_items
from evaltk.data.images import SAMPLED, Dataset, Split
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError, some

DIGEST = 16  # bytes of an image's digest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TorchSplit(Split):
    """Images of a PyTorch dataset; an image's name is its index there.

    Attributes:
        source: the dataset. rows: [N] int64, the images' indices in it.
        digests: [N] bytes, of each image's size and RGB pixels.
    """

    source: Any
    rows: np.ndarray
    digests: np.ndarray

    def image_id(self, index: int) -> str:
        """The image's index in the PyTorch dataset."""
        return str(self.rows[index])

    def taken(self, rows: np.ndarray, *, name: str, fingerprint: str) -> Self:
        """The images at `rows` [n] int64, in that order, as a split of its own."""
        return replace(
            self,
            name=name,
            labels=self.labels[rows],
            fingerprint=fingerprint,
            rows=self.rows[rows],
            digests=self.digests[rows],
        )

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: the dataset raises an error, or gives something else."""
        return torch_items.read(self.source, int(self.rows[index]), f"{self.dataset} {self.name}")[0]


def from_torch(
    train: TorchDataset[Any],
    test: TorchDataset[Any],
    *,
    name: str,
    class_names: Sequence[str] | None = None,
    workers: int = 0,
) -> Dataset:
    """A dataset that learns from `train` and reports on `test`.

    Every image is read once to fingerprint its pixels, at the cost of decoding both datasets; keep the returned object
    to evaluate several nets. Images are read again, not kept in memory, where features are extracted.

    Args:
        train, test: map-style datasets whose items are (image, label, ...) or dicts with ``image`` and ``label``.
            image: PIL image, uint8 array [H, W, 3], or tensor [3, H, W], uint8 or float in [0, 1] (rounded to 8 bits);
            gray ones may be [H, W] or [1, H, W]. Neither normalised nor augmented: evaltk resizes, crops and
            normalises as the net needs. label: an integer.
        name: of the dataset in results.
        class_names: name of each label 0, 1, ...; None: the datasets' ``classes``, where they have them, else the
            labels that occur in `train`, by value.
        workers: processes that read the images (0: none beside this one).

    Raises: DataError: no length, no images, an item of another form, a label that is no integer or that `train` lacks,
        images that differ each time they are read, or class names that differ.
    """
    names = _names((train, test), class_names, name)
    seen = {split: _look(source, f"{name} {split}", workers) for split, source in (("train", train), ("test", test))}
    classes, number = _classes(seen["train"].labels, names)
    parts = {
        split: _split(look, source, name, split, classes, number)
        for (split, look), source in zip(seen.items(), (train, test), strict=True)
    }
    return _made(
        Dataset(name=name, train=parts["train"], test=parts["test"]), rounded=any(s.rounded for s in seen.values())
    )


def from_torch_one(
    dataset: TorchDataset[Any],
    *,
    name: str,
    share: float = 0.2,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    workers: int = 0,
) -> Dataset:
    """A dataset made of one PyTorch dataset: `share` of the images of each class, drawn by `seed`, is the test split.

    Args, cost and errors as for `from_torch`. Raises also: SettingsError: a share that is not in (0, 1).
    """
    drawing = shares.Share(share=share, seed=seed)
    names = _names((dataset,), class_names, name)
    seen = _look(dataset, name, workers)
    classes, number = _classes(seen.labels, names)
    return _made(shares.drawn(_split(seen, dataset, name, "all", classes, number), drawing), rounded=seen.rounded)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What one pass over a dataset finds: digests [N] bytes, labels [N] int64, whether pixels had to be rounded."""

    digests: np.ndarray
    labels: np.ndarray
    rounded: bool


class _Looks(TorchDataset[Any]):
    """(digest, label, rounded) of each image, for worker processes; an error comes as a value."""

    def __init__(self, source: Any, where: str) -> None:
        self.source, self.where = source, where

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[bytes, int, bool] | DataError:
        try:
            image, label, rounded = torch_items.read(self.source, index, self.where)
        except DataError as error:
            return error
        return _digest(image), label, rounded


def _look(source: Any, where: str, workers: int) -> _Seen:
    try:
        count = len(source)
    except TypeError as error:
        raise DataError(
            wanted="a map-style dataset, with a length and an index",
            got=type(source).__name__,
            where=where,
            do="collect an iterable one first: list(dataset)",
        ) from error
    if not count:
        raise DataError(wanted="at least one image", got="an empty dataset", where=where, do="check its arguments")
    digests, labels, rounded = [], [], False
    loader = DataLoader(
        _Looks(source, where), batch_size=None, num_workers=workers, worker_init_fn=processes.start_worker
    )
    with progress.bar(f"{where}: fingerprint", count) as advance:
        for found in processes.items(loader, where="--workers", do="use fewer (--workers 0: none beside this one)"):
            if isinstance(found, DataError):
                raise found
            digests.append(found[0])
            labels.append(found[1])
            rounded |= found[2]
            advance(1)
    for index in np.unique(np.linspace(0, count - 1, min(SAMPLED, count)).astype(int)).tolist():
        if _digest(torch_items.read(source, index, where)[0]) != digests[index]:
            raise DataError(
                wanted="the same image each time it is read",
                got="other pixels the second time",
                where=f"{where}, image {index}",
                do="build the dataset without random augmentation",
            )
    return _Seen(
        digests=np.array(digests, dtype=f"V{DIGEST}"), labels=np.array(labels, dtype=np.int64), rounded=rounded
    )


def _digest(image: Image.Image) -> bytes:
    return hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=DIGEST).digest()


def _names(sources: Sequence[Any], given: Sequence[str] | None, where: str) -> tuple[str, ...] | None:
    """Name of each label, None where nothing tells. Raises: DataError: the datasets' names differ, or come twice."""
    if given is not None:
        if len(set(given)) < len(given):
            raise DataError(wanted="a name of its own for each class", got="one twice", where=where, do="rename it")
        return tuple(given)
    found = {names for source in sources if (names := _names_of(source))}
    if len(found) > 1:
        # Such as two ImageFolders, each of which numbers the folders it has.
        one, other = (some(list(names), 4) for names in sorted(found)[:2])
        raise DataError(
            wanted="the same classes, in the same order, in train and test",
            got=f"{one} against {other}",
            where=where,
            do="number the labels of both alike, then pass class_names",
        )
    return found.pop() if found else None


def _names_of(source: Any) -> tuple[str, ...] | None:
    """``classes`` of torchvision's datasets, also within a Subset, or the class names of Hugging Face's."""
    for _ in range(8):
        features = getattr(source, "features", None)
        names = getattr(source, "classes", None)
        if isinstance(features, Mapping):
            names = next(
                (getattr(features[key], "names", None) for key in torch_items.LABEL_KEYS if key in features), None
            )
        if isinstance(names, list | tuple) and names:
            usable = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
            return tuple(names) if usable else None
        source = getattr(source, "dataset", None)
    return None


def _classes(train: np.ndarray, names: tuple[str, ...] | None) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of the classes, and the class id of each label of the training split that is known."""
    if names is not None:
        return names, {i: i for i in np.unique(train).tolist() if i < len(names)}
    values = np.unique(train).tolist()
    return tuple(map(str, values)), {value: i for i, value in enumerate(values)}


def _split(
    seen: _Seen, source: Any, dataset: str, name: str, classes: tuple[str, ...], number: Mapping[int, int]
) -> TorchSplit:
    unknown = sorted(set(seen.labels.tolist()) - number.keys())
    if unknown:
        raise DataError(
            wanted=f"labels of the {len(classes)} classes that the training split has images of",
            got=f"{len(unknown)} others: {some(list(map(str, unknown)))}",
            where=f"{dataset} {name}",
            do="check class_names, or whether both splits number their classes alike",
        )
    labels = np.array([number[label] for label in seen.labels.tolist()], dtype=np.int64)
    state = hashlib.sha256(repr(("torch", classes, len(labels))).encode())
    state.update(seen.digests.tobytes())
    state.update(labels.astype("<i8").tobytes())
    return TorchSplit(
        dataset=dataset,
        name=name,
        classes=classes,
        labels=labels,
        fingerprint=state.hexdigest(),
        source=source,
        rows=np.arange(len(labels)),
        digests=seen.digests,
    )


def _made(dataset: Dataset, *, rounded: bool) -> Dataset:
    """The dataset with what the pass over its images found."""
    train, test = dataset.train, dataset.test
    assert isinstance(train, TorchSplit) and isinstance(test, TorchSplit)
    known = set(train.digests.tolist())
    shared = sum(digest in known for digest in test.digests.tolist())
    text = f"{shared:,} of {len(test):,} test images are pixel for pixel in train too"
    found = (Deviation(kind=DeviationKind.SHARED_IMAGES, text=text),) if shared else ()
    note = ("images of floating-point values were rounded to 8 bits",) if rounded else ()
    return replace(dataset, deviations=(*dataset.deviations, *found), notes=(*dataset.notes, *note))
