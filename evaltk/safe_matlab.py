"""Safe reading of numbers from MATLAB files: scipy's reader ends the whole process on some damaged ones.

Source: MAT-File Format (MathWorks), level 5: a header of 128 bytes, then elements, each a tag and its data; variables
are matrices, compressed or not.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

BYTES = 16 << 20  # of the file, and of what one compressed variable may hold
HEADER, WORD = 128, 8
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # as stored
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX = 0x0800


def read(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The numeric matrices with these names, each of the shape and the class that the file states.

    Raises: ValueError: no such file of level 5, damaged, a name that is missing, twice, or no real matrix. OSError.
    """
    if (size := path.stat().st_size) > BYTES:
        raise ValueError(f"{size:,} bytes")
    data = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if len(data) < HEADER or order is None:
        raise ValueError("no MATLAB file of level 5")
    found: dict[str, np.ndarray] = {}
    for kind, body in _elements(data[HEADER:], order):
        for inner, matrix in _elements(_inflated(body), order) if kind == COMPRESSED else [(kind, body)]:
            parts = _elements(matrix, order) if inner == MATRIX else iter(())
            name, made = _matrix(parts, order, names)
            if name in found:
                raise ValueError(f"{name} twice")
            if made is not None:
                found[name] = made
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"no {', '.join(missing)}")
    return found


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) one after the other. Raises: ValueError: one that reaches beyond the end."""
    at = 0
    while at < len(data):
        if len(data) - at < WORD:
            raise ValueError("cut off")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + WORD
        if kind >> 16:  # up to four bytes, in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, at + WORD // 2
            if size > WORD // 2:
                raise ValueError("a damaged tag")
            at += WORD
        else:
            at = start + (size if kind == COMPRESSED else -(-size // WORD) * WORD)
        if start + size > len(data):
            raise ValueError("cut off")
        yield kind, data[start : start + size]


def _inflated(data: bytes) -> bytes:
    """What a compressed element holds. Raises: ValueError: damaged, or above `BYTES`."""
    stream = zlib.decompressobj()
    try:
        made = stream.decompress(data, BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof:
        raise ValueError("a compressed variable that is cut off or too large")
    return made


def _matrix(parts: Iterator[tuple[int, bytes]], order: str, names: Collection[str]) -> tuple[str, np.ndarray | None]:
    """(name, values) of a matrix; no values where it is not asked for, nor looked into."""
    head = [next(parts, (0, b"")) for _ in range(3)]
    (_, flags), (_, sizes), (_, label) = head
    name = label.decode("ascii", errors="replace")
    if name not in names:
        return name, None
    if [kind for kind, _ in head] != [6, 5, 1] or len(flags) != WORD or not sizes or len(sizes) % 4:
        raise ValueError(f"{name} is damaged")
    (word,) = struct.unpack_from(f"{order}I", flags)
    shape = np.frombuffer(sizes, f"{order}i4").tolist()
    kind, data = next(parts, (0, b""))
    if word & 0xFF not in CLASSES or word & COMPLEX or kind not in NUMBERS:
        raise ValueError(f"{name} is no matrix of real numbers")
    stored = np.dtype(order + NUMBERS[kind])
    count = 1
    for side in shape:
        count *= side
    if min(shape) < 0 or len(data) != count * stored.itemsize or next(parts, None) is not None:
        raise ValueError(f"{name} has {len(data):,} bytes for {shape}")
    values = np.frombuffer(data, stored)
    with np.errstate(invalid="ignore"):  # NaN is no whole number: told below
        made = values.astype(CLASSES[word & 0xFF])  # whole numbers of a double are stored in few bytes
    if not np.array_equal(made, values):
        raise ValueError(f"{name} has values that its class does not hold")
    return name, made.reshape(shape, order="F")
