"""Foreign pickles read without a single object of theirs being made: arrays are rebuilt from bytes, the rest refused.

numpy's own `dtype` is not safe to hand to a pickle: its state can claim that an array of pointers is plain bytes.
"""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = re.compile(r"[<>=|]?([iufbUS])\d{1,4}")  # array types that are bytes and nothing else


def read(path: Path, *, encoding: str = "latin1") -> Any:
    """The plain containers, strings, numbers and arrays (as `Array`) of a pickle file.

    Args:
        encoding: how strings of Python 2 are read; ``bytes`` leaves them as bytes.

    Raises: pickle.UnpicklingError: any other object, none of which is made; OSError; what a damaged file makes of it.
    """
    with path.open("rb") as stream:
        return _PlainOnly(stream, encoding=encoding).load()


class DType:
    """Stands in for a pickled dtype: its text, and the byte order its state tells."""

    def __init__(self, text: str | bytes, *_: object) -> None:
        self.text = text.decode() if isinstance(text, bytes) else text

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.text = self.text if self.text[:1] in "<>=|" else f"{order}{self.text}"

    def values(self, data: bytes | str | list[Any]) -> np.ndarray:
        """The numbers in `data` [n]. Raises: pickle.UnpicklingError: a type that is not bytes and nothing else."""
        if isinstance(data, list):  # an array of objects brings its items along
            return np.array([None, *data], dtype=object)[1:]
        if not NUMBERS.fullmatch(self.text):
            raise pickle.UnpicklingError(f"an array of type {self.text[:20]!r}, which was not loaded")
        # Python 2 wrote bytes as text, which `encoding="latin1"` hands on.
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=self.text)


class Array:
    """Stands in for a pickled array; `array` once its state has come."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.array = kind.values(data).reshape(shape, order="F" if fortran else "C")


def scalar(kind: DType, data: bytes | str) -> Any:
    """A pickled numpy number as Python's."""
    return kind.values(data)[0].item()


def _array(*_: object) -> Array:
    return Array()


def _from_buffer(data: bytes, kind: DType, shape: tuple[int, ...], order: str, *_: object) -> Array:
    found = Array()
    found.__setstate__((1, shape, kind, order == "F", bytes(data)))
    return found


def _latin1(text: str, encoding: str | bytes) -> bytes:
    return text.encode("latin1")


STAND_INS: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _array,
    "multiarray.scalar": scalar,
    "numeric._frombuffer": _from_buffer,
    "numpy.ndarray": Array,
    "numpy.dtype": DType,
    "_codecs.encode": _latin1,
}


class _PlainOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        known = STAND_INS.get(f"{re.sub(r'^numpy[.]_?core[.]', '', module)}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"the object {module}.{name}, which was not loaded")
        # A fresh wrapper each time: what a file does to the object it is given must not outlast the file.
        return functools.partial(known)
