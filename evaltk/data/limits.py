"""A seeded, class-balanced part of a dataset, to try a command out on (`--limit N`)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from evaltk.data.galleries import Gallery, photographs
from evaltk.data.images import Dataset, Split
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import SettingsError
from evaltk.seeding import derive

AnyKind = TypeVar("AnyKind", bound=Any)
FLAG = "--limit"


def limited(dataset: AnyKind, limit: int, seed: int) -> AnyKind:
    """A part of a dataset with a fingerprint of its own, marked as a smoke test; the dataset itself if it is no larger.

    Of images, `limit` per split: equally many of each class as far as there are any, and of ``limit`` classes one
    each where there are more classes than that, the same in each split. Of a retrieval benchmark, `limit` queries, the
    images that their ground truth names, and as many others. Of sequences, `limit`.
    Of images with label maps, `limit` per split.
    A larger limit contains the images of a smaller one.

    Raises: SettingsError: a limit below 1, a kind of dataset that has no such part.
    """
    if limit < 1:
        do = f"{FLAG} 100, or leave it out for all images"
        raise SettingsError(wanted="at least one image per split", got=str(limit), where=FLAG, do=do)
    parts: dict[str, Callable[..., Any]] = {
        "images": _images,
        "retrieval": _retrieval,
        "sequences": _sequences,
        "masks": _masks,
    }
    if dataset.KIND not in parts:
        got = f"{dataset.name}, a dataset of {dataset.KIND}"
        raise SettingsError(wanted=f"one of {', '.join(parts)}", got=got, where=FLAG, do="leave --limit out")
    part = parts[dataset.KIND](dataset, limit, seed)
    if part.sizes == dataset.sizes:
        return dataset
    sizes = [f"{size:,} of {dataset.sizes[name]:,} {name}" for name, size in part.sizes.items()]
    text = f"smoke test on {' and '.join(sizes)} {_unit(dataset.KIND)} ({FLAG} {limit})"
    mark = Deviation(kind=DeviationKind.SMOKE_TEST, text=text)
    return dataclasses.replace(part, deviations=(*dataset.deviations, mark))


def limited_split(split: Split, limit: int, seed: int) -> Split:
    """At most `limit` images of one split, as `limited` takes them of a dataset whose training split it is.

    Raises: SettingsError: a limit below 1.
    """
    return limited(Dataset(name=split.dataset, train=split, test=split), limit, seed).train


def balanced(labels: np.ndarray, limit: int, seed: int, *names: object, places: np.ndarray) -> np.ndarray:
    """Rows [min(limit, N)] int64, rising: one of each class in turn until there are `limit`, at random within a class.

    Args:
        labels: [N] int64 in [0, C). names: of the random stream. places: [C] int64, each class's place in the turn.
    """
    keys = _draws(len(labels), seed, *names)
    order = np.lexsort((keys, labels))
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[order] = np.arange(len(labels)) - np.repeat(first, counts)
    return np.sort(np.lexsort((places[labels], turn))[:limit])


def rows_of(dataset: Dataset, limit: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [min(limit, N)] int64, rising, of the training and of the reported split."""
    num_classes = len(dataset.train.classes)
    places = np.empty(num_classes, dtype=np.int64)
    places[np.argsort(_draws(num_classes, seed, "classes"), kind="stable")] = np.arange(num_classes)
    train, test = (
        balanced(split.labels, limit, seed, split.name, places=places) for split in (dataset.train, dataset.test)
    )
    return train, test


def _images(dataset: Dataset, limit: int, seed: int) -> Dataset:
    train, test = rows_of(dataset, limit, seed)
    return dataclasses.replace(
        dataset,
        train=_part(dataset.train, train),
        test=_part(dataset.test, test),
        val=None if dataset.val is None else dataset.val[train],
    )


def _part(split: Split, rows: np.ndarray) -> Split:
    if len(rows) == len(split):
        return split
    state = hashlib.sha256(f"{split.fingerprint}\0{FLAG}\0".encode())
    state.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
    return split.taken(rows, name=split.name, fingerprint=state.hexdigest())


def _retrieval(dataset: Gallery, limit: int, seed: int) -> Gallery:
    truth = dataset.truth
    queries = _drawn(len(truth.qimlist), limit, seed, "queries")
    if len(queries) == len(truth.qimlist):
        return dataset
    lists = ("easy", "hard", "junk")
    named = np.unique(np.concatenate([np.asarray(truth.gnd[q][k], dtype=np.int64) for q in queries for k in lists]))
    others = np.setdiff1d(np.arange(len(truth.imlist)), named)
    images = np.union1d(named, others[_drawn(len(others), limit, seed, "database")])
    gnd = [
        {**truth.gnd[q], **{k: np.searchsorted(images, np.asarray(truth.gnd[q][k], dtype=np.int64)) for k in lists}}
        for q in queries
    ]
    database, asked = (
        photographs(dataset.name, whole.name, whole.root, [(whole.files or ())[i] for i in rows])
        for whole, rows in ((dataset.database, images), (dataset.queries, queries))
    )
    part = dataclasses.replace(
        truth,
        imlist=tuple(truth.imlist[i] for i in images),
        qimlist=tuple(truth.qimlist[q] for q in queries),
        gnd=tuple(gnd),
    )
    prints = _digest(dataset.fingerprint, database.fingerprint, asked.fingerprint)
    return dataclasses.replace(dataset, database=database, queries=asked, truth=part, fingerprint=prints)


def _sequences(dataset: Any, limit: int, seed: int) -> Any:
    rows = _drawn(len(dataset.sequences), limit, seed, "sequences")
    if len(rows) == len(dataset.sequences):
        return dataset
    kept = tuple(dataset.sequences[row] for row in rows)
    prints = _digest(dataset.fingerprint, *(one.name for one in kept))
    return dataclasses.replace(dataset, sequences=kept, fingerprint=prints)


def _masks(dataset: Any, limit: int, seed: int) -> Any:
    train, test = (_part(split, _drawn(len(split), limit, seed, split.name)) for split in (dataset.train, dataset.test))
    return dataclasses.replace(dataset, train=train, test=test)


def _drawn(count: int, limit: int, seed: int, name: str) -> np.ndarray:
    return np.sort(np.argsort(_draws(count, seed, name), kind="stable")[:limit])


def _draws(count: int, seed: int, *names: object) -> np.ndarray:
    """[count] uint64 of a named stream; raw output, which no version of numpy changes."""
    return np.random.PCG64(derive(seed, "limit", *names)).random_raw(count)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join((*texts, FLAG)).encode()).hexdigest()


def _unit(kind: str) -> str:
    return "images" if kind != "sequences" else "sequences"
