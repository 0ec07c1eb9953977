"""The ground truth of revisited Oxford and Paris: image names, query names, and who is easy, hard and junk.

The official files gnd_roxford5k.pkl and gnd_rparis6k.pkl are pickles. They are read without a single object of theirs
being made: arrays are rebuilt from their bytes, and anything but plain containers and plain arrays is refused.
Source: Radenovic et al. 2018 (arXiv 1803.11285); revisitop python/dataset.py:13-20 at be39832.
"""

from __future__ import annotations

import functools
import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from evaltk.errors import DataError
from evaltk.metrics.retrieval import checked_truth

WHERE = "expected: gnd_roxford5k.pkl or gnd_rparis6k.pkl of cmp.felk.cvut.cz/revisitop"
NUM_IMAGES = {"roxford5k": 4993, "rparis6k": 6322}
NUM_QUERIES = 70
NUMBERS = re.compile(r"[<>=|]?([iufbUS])\d{1,4}")  # array types that are bytes and nothing else


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroundTruth:
    """One benchmark's ground truth.

    Attributes:
        name: ``roxford5k``, ``rparis6k``, or the file's stem where it is neither.
        imlist, qimlist: names of the database images [N] and of the queries [Q], without ending.
        gnd: Q mappings {"easy", "hard", "junk": int64 indices into imlist, "bbx": (left, top, right, bottom) in pixels
            or None}.
        notes: how it differs from the official files.
    """

    name: str
    imlist: tuple[str, ...]
    qimlist: tuple[str, ...]
    gnd: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def read_ground_truth(path: Path | str) -> GroundTruth:
    """The ground truth in an official pickle.

    Raises: DataError: no such file, anything in it but plain containers and arrays (nothing is executed), missing keys,
        indices outside imlist, an image in two lists of a query, a box without area.
    """
    path = Path(path)
    found = _unpickled(path)
    try:
        imlist, qimlist = (_names(found[key], path, key) for key in ("imlist", "qimlist"))
        entries = [{key: _plain(value) for key, value in entry.items()} for entry in _plain(found["gnd"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise _wrong(path, f"{type(error).__name__}: {error}") from error
    if len(entries) != len(qimlist):
        raise _wrong(path, f"{len(qimlist)} names in qimlist but {len(entries)} entries in gnd")
    lists = checked_truth(entries, len(imlist), source=path)
    boxes = [_box(entry.get("bbx"), f"{path}, query {query}, bbx") for query, entry in enumerate(entries)]
    gnd = tuple({**own, "bbx": box} for own, box in zip(lists, boxes, strict=True))
    name, notes = _recognised(path, len(imlist), len(qimlist))
    if any(box is None for box in boxes):
        notes = (*notes, f"{sum(box is None for box in boxes)} queries have no box to be cropped to")
    return GroundTruth(name=name, imlist=imlist, qimlist=qimlist, gnd=gnd, notes=notes)


def _recognised(path: Path, num_images: int, num_queries: int) -> tuple[str, tuple[str, ...]]:
    """(name, notes): by the file's name first, so that a truncated official file is told apart from another one."""
    names = [name for name in NUM_IMAGES if name in path.stem] or [n for n, v in NUM_IMAGES.items() if v == num_images]
    name = names[0] if names else path.stem
    if NUM_IMAGES.get(name) == num_images and num_queries == NUM_QUERIES:
        return name, ()
    official = f"{NUM_IMAGES[name]} of {name}" if names else " or ".join(f"{v} of {n}" for n, v in NUM_IMAGES.items())
    return name, (
        f"{num_images} database images and {num_queries} queries where the official files have {official} and "
        f"{NUM_QUERIES}: not comparable with published figures",
    )


def _wrong(where: object, got: str) -> DataError:
    return DataError(wanted="ground truth with imlist, qimlist and gnd", got=got[:200], where=where, do=WHERE)


def _names(value: Any, path: Path, key: str) -> tuple[str, ...]:
    """Image names, each once, none of them leading out of the image folder."""
    names = _plain(value)
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name for name in names):
        raise _wrong(f"{path}, {key}", f"no list of names but {type(names).__name__}")
    if len(set(names)) < len(names):
        raise _wrong(f"{path}, {key}", f"{len(names) - len(set(names))} names that occur twice")
    for name in names:
        if "\\" in name or "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise _wrong(f"{path}, {key}", f"the name {name!r}, which leads out of the image folder")
    return tuple(names)


def _box(value: Any, where: str) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    box = tuple(value) if isinstance(value, list | tuple) else ()
    if len(box) == 4 and all(isinstance(side, int | float) and math.isfinite(side) for side in box):
        left, top, right, bottom = (float(side) for side in box)
        if left < right and top < bottom:
            return left, top, right, bottom
    raise DataError(wanted="a box (left, top, right, bottom) with an area", got=repr(value)[:80], where=where)


class _Type:
    """Stands in for a pickled dtype: its text, and the byte order its state tells."""

    def __init__(self, text: str, *_: object) -> None:
        self.text = text

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.text = self.text if self.text[:1] in "<>=|" else f"{state[1]}{self.text}"

    def values(self, data: bytes | str | list[Any]) -> np.ndarray:
        if isinstance(data, list):  # an array of objects brings its items along
            return np.array([None, *data], dtype=object)[1:]
        if not NUMBERS.fullmatch(self.text):
            raise pickle.UnpicklingError(f"an array of type {self.text[:20]!r}, which was not loaded")
        # Python 2 wrote bytes as text, which `encoding="latin1"` hands on.
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=self.text)


class _Array:
    """Stands in for a pickled array until its state comes."""

    items: list[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.items = kind.values(data).reshape(shape, order="F" if fortran else "C").tolist()


def _array(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: bytes, kind: _Type, shape: tuple[int, ...], order: str, *_: object) -> _Array:
    found = _Array()
    found.__setstate__((1, shape, kind, order == "F", bytes(data)))
    return found


def _scalar(kind: _Type, data: bytes | str) -> Any:
    return kind.values(data)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


# numpy's own `dtype` is not safe to hand to a pickle: its state can claim that an array of pointers is plain bytes.
STAND_INS: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _latin1,
}


class _PlainOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        known = STAND_INS.get(f"{re.sub(r'^numpy[.]_?core[.]', '', module)}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"the object {module}.{name}, which was not loaded")
        # A fresh wrapper each time: what a file does to the object it is given must not outlast the file.
        return functools.partial(known)


def _plain(value: Any) -> Any:
    return value.items if isinstance(value, _Array) else value


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            found = _PlainOnly(stream, encoding="latin1").load()
    except FileNotFoundError as error:
        raise _wrong(path, "no such file") from error
    except Exception as error:  # a damaged pickle can raise nearly anything; none of it is ours
        raise _wrong(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, dict) or (missing := [key for key in ("imlist", "qimlist", "gnd") if key not in found]):
        raise _wrong(path, f"no {', '.join(missing)}" if isinstance(found, dict) else f"a {type(found).__name__}")
    return found
