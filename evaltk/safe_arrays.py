"""Safe reading of numpy's files: headers are checked against the file's size before anything is allocated.

`numpy.load` believes a header: 80 bytes can ask for terabytes. A damaged file is a `DamagedError`, whatever zip, zlib
or numpy make of it; its text says what is wrong, and the caller says what was wanted.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

MAGIC = b"\x93NUMPY"
ZIP = b"PK"
KINDS = "biufcSU"  # numbers and text: no objects, no records
UNPACKED = 256 << 20  # bytes that any archive may unpack to; beyond them RATIO times its size
RATIO = 16
CHUNK = 1 << 20


class DamagedError(ValueError):
    """What is wrong with a file of arrays, in a few words."""


def read_npy(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array in a ``.npy`` file; `mapped`: read-only, from the disk as it is used.

    Raises: DamagedError: no array, truncated, of objects, or a header that does not fit the file. OSError.
    """
    with _regular(path).open("rb") as stream:
        dtype, shape, fortran = _header(stream)
        start = stream.tell()
        _check_size(dtype, shape, path.stat().st_size - start)
        order: Any = "F" if fortran else "C"
        count: int = math.prod(shape)
        if mapped and count:
            return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order=order)
        flat = np.fromfile(stream, dtype=dtype, count=count)
    if flat.size != count:
        raise DamagedError("a truncated file")
    return flat.reshape(shape, order=order)


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays in an ``.npz`` file by name, or those of them that are named. Checksums are checked.

    Raises: DamagedError: no such archive, damaged, an array of objects or twice there, one that unpacks to far more
        than its file. OSError.
    """
    _regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            found = {entry.filename.removesuffix(".npy"): entry for entry in entries}
            if len(found) < len(entries):
                raise DamagedError("an array twice")
            wanted = {name: entry for name, entry in found.items() if names is None or name in names}
            if sum(e.file_size for e in wanted.values()) > max(UNPACKED, RATIO * path.stat().st_size):
                raise DamagedError("arrays that unpack to far more than the file")
            return {name: _member(archive, entry) for name, entry in wanted.items()}
    except (DamagedError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib, lzma and struct each have errors of their own for damaged bytes
        raise DamagedError(f"{type(error).__name__}: {error}"[:120]) from error


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        dtype, shape, fortran = _header(stream)
        size = entry.file_size - stream.tell()
        _check_size(dtype, shape, size)
        data = bytearray()  # grows as data come: the size is only what the directory says
        while part := stream.read(CHUNK):  # to the end, where the checksum is compared
            data += part
    if len(data) != size:
        raise DamagedError("a truncated file")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _regular(path: Path) -> Path:
    if path.exists() and not path.is_file():
        raise DamagedError("a folder" if path.is_dir() else "no regular file")
    return path


def _header(stream: IO[bytes]) -> tuple[np.dtype, tuple[int, ...], bool]:
    """(dtype, shape, whether in Fortran's order) that a .npy file begins with."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise DamagedError(f"format {version[0]}.{version[1]} of .npy")
        shape, fortran, dtype = read(stream)
    except (DamagedError, OSError):
        raise
    except Exception as error:  # numpy parses the header as Python, which fails in many ways
        raise DamagedError(f"no header of .npy ({type(error).__name__}: {error})"[:120]) from error
    if dtype.hasobject or dtype.kind not in KINDS or not dtype.itemsize:
        raise DamagedError(f"an array of type {dtype}"[:80])
    if len(shape) > 32 or any(type(n) is not int or n < 0 for n in shape):
        raise DamagedError(f"the shape {shape}"[:80])
    return dtype, shape, bool(fortran)


def _check_size(dtype: np.dtype, shape: tuple[int, ...], size: int) -> None:
    # Sizes of empty arrays overflow in numpy as others do.
    if math.prod(shape) * dtype.itemsize != size or math.prod(n or 1 for n in shape) > 2**62:
        raise DamagedError(f"{list(shape)} of {dtype} in {size:,} bytes"[:120])
