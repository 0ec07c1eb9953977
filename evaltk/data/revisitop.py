"""The ground truth of revisited Oxford and Paris: image names, query names, and who is easy, hard and junk.

The official files gnd_roxford5k.pkl and gnd_rparis6k.pkl are pickles. They are read without a single object of theirs
being made: arrays are rebuilt from their bytes, and anything but plain containers and plain arrays is refused.
Source: Radenovic et al. 2018 (arXiv 1803.11285); revisitop python/dataset.py:13-20 at be39832.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evaltk import safe_pickle as plain_pickle
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError
from evaltk.metrics.retrieval import checked_truth

WHERE = "expected: gnd_roxford5k.pkl or gnd_rparis6k.pkl of cmp.felk.cvut.cz/revisitop"
NUM_IMAGES = {"roxford5k": 4993, "rparis6k": 6322}
NUM_QUERIES = 70


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroundTruth:
    """One benchmark's ground truth.

    Attributes:
        name: ``roxford5k``, ``rparis6k``, or the file's stem where it is neither.
        imlist, qimlist: names of the database images [N] and of the queries [Q], without ending.
        gnd: Q mappings {"easy", "hard", "junk": int64 indices into imlist, "bbx": (left, top, right, bottom) in pixels
            or None}.
        deviations: from the official files.
    """

    name: str
    imlist: tuple[str, ...]
    qimlist: tuple[str, ...]
    gnd: tuple[Mapping[str, Any], ...]
    deviations: tuple[Deviation, ...] = ()


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
    name, deviations = _recognised(path, len(imlist), len(qimlist))
    if any(box is None for box in boxes):
        text = f"{sum(box is None for box in boxes)} queries have no box to be cropped to"
        deviations = (*deviations, Deviation(kind=DeviationKind.QUERY_BOXES, text=text))
    return GroundTruth(name=name, imlist=imlist, qimlist=qimlist, gnd=gnd, deviations=deviations)


def _recognised(path: Path, num_images: int, num_queries: int) -> tuple[str, tuple[Deviation, ...]]:
    """(name, deviations): by the file's name first, so that a truncated official file is recognised as one."""
    names = [name for name in NUM_IMAGES if name in path.stem] or [n for n, v in NUM_IMAGES.items() if v == num_images]
    name = names[0] if names else path.stem
    if NUM_IMAGES.get(name) == num_images and num_queries == NUM_QUERIES:
        return name, ()
    official = f"{NUM_IMAGES[name]} of {name}" if names else " or ".join(f"{v} of {n}" for n, v in NUM_IMAGES.items())
    text = (
        f"{num_images} database images and {num_queries} queries where the official files have {official} and "
        f"{NUM_QUERIES}"
    )
    return name, (Deviation(kind=DeviationKind.GROUND_TRUTH, text=text),)


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


def _plain(value: Any) -> Any:
    return value.array.tolist() if isinstance(value, plain_pickle.Array) else value


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        found = plain_pickle.read(path)
    except FileNotFoundError as error:
        raise _wrong(path, "no such file") from error
    except Exception as error:  # a damaged pickle can raise nearly anything; none of it is ours
        raise _wrong(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, dict) or (missing := [key for key in ("imlist", "qimlist", "gnd") if key not in found]):
        raise _wrong(path, f"no {', '.join(missing)}" if isinstance(found, dict) else f"a {type(found).__name__}")
    return found
