"""Safe reading of foreign pickles: no object is constructed, arrays are rebuilt from bytes, all else is refused.

Not even numpy's `dtype` is safe to give to a pickle: its state can claim that an array of pointers is plain bytes.
"""

from __future__ import annotations

import functools
import io
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

NUMBERS = re.compile(r"[<>=|]?([iufbUS])\d{1,4}")  # dtypes whose arrays contain no pointers


def read(path: Path, *, encoding: str = "latin1") -> Any:
    """Read a pickle of plain containers, strings, numbers and arrays (returned as `Array`).

    Args:
        encoding: of Python 2 strings; ``bytes`` leaves them as bytes.

    Raises: pickle.UnpicklingError: any other object, before it is constructed. OSError. Any error of `pickle` for a
        corrupt file.
    """
    stream = io.BytesIO(path.read_bytes())  # of which no more can be read than there is
    try:
        return _PlainOnly(stream, encoding=encoding).load()
    except KeyError as error:
        raise pickle.UnpicklingError(f"byte {error} where an operation of a pickle was to come") from error


class DType:
    """Stand-in for a pickled dtype: its text, and the byte order from its state."""

    def __init__(self, text: str | bytes, *_: object) -> None:
        self.text = text.decode() if isinstance(text, bytes) else text

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if not isinstance(order, str) or not isinstance(self.text, str):
            raise pickle.UnpicklingError("a dtype without a text, which was not loaded")
        self.text = self.text if self.text[:1] in "<>=|" else f"{order}{self.text}"

    def values(self, data: bytes | str | list[Any]) -> np.ndarray:
        """The values in `data` as an array [n]. Raises: pickle.UnpicklingError: a dtype that is not plain bytes."""
        if isinstance(data, list):  # an array of objects: its items were unpickled by us too
            return np.array([None, *data], dtype=object)[1:]
        if not NUMBERS.fullmatch(self.text):
            raise pickle.UnpicklingError(f"an array of type {self.text[:20]!r}, which was not loaded")
        # Python 2 wrote bytes as str, which `encoding="latin1"` decodes.
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=self.text)


class Array:
    """Stand-in for a pickled array; `array` is set with its state."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.array = kind.values(data).reshape(shape, order="F" if fortran else "C")


def scalar(kind: DType, data: bytes | str) -> Any:
    """A pickled numpy scalar as a Python number."""
    return kind.values(data)[0].item()


def _array(*_: object) -> Array:
    return Array()


def _from_buffer(data: bytes, kind: DType, shape: tuple[int, ...], order: str, *_: object) -> Array:
    array = Array()
    array.__setstate__((1, shape, kind, order == "F", bytes(data)))
    return array


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


# Python's own, not C's: that one makes room for as many objects as a file says it numbers, 8 GB for a file of 1 kB.
class _PlainOnly(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> object:
        stand_in = STAND_INS.get(f"{re.sub(r'^numpy[.]_?core[.]', '', module)}.{name}")
        if stand_in is None:
            raise pickle.UnpicklingError(f"the object {module}.{name}, which was not loaded")
        # A fresh wrapper each time, so that a file cannot modify the stand-in for the next file.
        return functools.partial(stand_in)

    def _bytearray(self: Any) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # pickle's own makes room for all of it first

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _bytearray,
    }
