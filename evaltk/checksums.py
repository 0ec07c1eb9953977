"""Checksums of the files that evaltk writes and reads back: CRC-32, compared whenever such a file is read."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from evaltk import files, safe_json

BLOCK = 1 << 24  # bytes that one checksum covers, so that several threads can check a large file
THREADS = 8
FIELD = "crc32"  # of JSON that holds its own checksum
LISTED = "checksums.json"  # the checksums of a folder's files


class Damaged(ValueError):
    """A file is not as it was written."""


def of_bytes(data: bytes | memoryview) -> list[int | str]:
    """The size, and the CRC-32 in hex of each block, of `data`."""
    view = memoryview(data).cast("B")
    return [len(view), *(_hex(zlib.crc32(view[start : start + BLOCK])) for start in range(0, len(view), BLOCK))]


def _hex(number: int) -> str:
    return f"{number:08x}"


def of_file(path: Path) -> list[int | str]:
    """As `of_bytes`, of a file. Raises: OSError."""
    size = path.stat().st_size
    starts = range(0, size, BLOCK)
    if len(starts) <= 1:
        return of_bytes(path.read_bytes())
    with ThreadPoolExecutor(min(THREADS, len(starts), os.cpu_count() or 1)) as pool:
        return [size, *pool.map(partial(_block, path), starts)]


def _block(path: Path, start: int) -> str:
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        found, left = 0, BLOCK
        while left and (data := stream.read(min(left, 1 << 20))):  # pieces that stay in the processor's cache
            found, left = zlib.crc32(data, found), left - len(data)
        return _hex(found)


def check_file(path: Path, wanted: object) -> None:
    """Compare a file with what `of_file` gave when it was written. Raises: Damaged, OSError."""
    found = of_file(path)
    if found != wanted:
        size = wanted[0] if isinstance(wanted, list) and wanted else None
        said = "another checksum than when it was written" if found[0] == size else f"{found[0]:,} bytes of {size}"
        raise Damaged(f"{path.name}: {said}")


def list_folder(folder: Path) -> None:
    """Write the checksums of a folder's files into it. Raises: StorageError, OSError."""
    found = {path.name: of_file(path) for path in sorted(folder.iterdir()) if path.name != LISTED}
    files.write_text(folder / LISTED, _list(found))


def _list(found: Mapping[str, list[int | str]]) -> str:
    return dumps({"block": BLOCK, "files": found})


def list_bytes(sizes: Mapping[str, int]) -> int:
    """Bytes of the list of files with these names and sizes."""
    return len(_list({name: [size, *[_hex(0)] * -(-size // BLOCK)] for name, size in sizes.items()}).encode())


def check_folder(folder: Path) -> None:
    """Compare the files of a folder with their list; one without a list is of a time before checksums, and passes.

    Raises: Damaged, OSError.
    """
    path = folder / LISTED
    if not path.exists():
        return
    listed = loads(path.read_text(encoding="utf-8"), required=True)
    if listed.get("block") != BLOCK or not isinstance(listed.get("files"), dict):
        raise Damaged(f"{path.name}: no list of checksums")
    for name, wanted in listed["files"].items():
        check_file(folder / name, wanted)


def forget(path: Path) -> None:
    """Have the system read a file from its disk the next time, where it can, not from what it kept in memory."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def check_zip(path: Path) -> None:
    """Compare every entry of a zip archive (npz, torch.save) with its CRC-32. Raises: Damaged, OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            # 0: written without checksums, which torch can.
            for entry in (e for e in archive.infolist() if e.CRC or not e.file_size):
                with archive.open(entry) as stream:
                    while stream.read(1 << 20):
                        pass
    except OSError:
        raise
    except Exception as error:  # a changed header makes zipfile and zlib raise errors of many kinds
        raise Damaged(f"{path.name}: {str(error)[:100] or type(error).__name__}") from error


def dumps(tree: Mapping[str, Any], *, indent: int | None = None) -> str:
    """`tree` as JSON with a field that holds its checksum."""
    return json.dumps({**tree, FIELD: _of_tree(tree)}, indent=indent, allow_nan=False)


def loads(text: str, *, required: bool = False) -> dict[str, Any]:
    """The tree of `dumps`; JSON without the field is of a time before checksums, and passes unless `required`.

    Raises: Damaged: another checksum. ValueError: no JSON, or no object.
    """
    tree = safe_json.parse(text)
    if not isinstance(tree, dict):
        raise Damaged("no JSON object")
    wanted = tree.pop(FIELD, None)
    if (required or wanted is not None) and wanted != _of_tree(tree):
        raise Damaged("another checksum than when it was written")
    return tree


def _of_tree(tree: Mapping[str, Any]) -> str:
    # Through JSON once, since a tuple and a list, or 1 and True as keys, are the same there.
    text = json.dumps(json.loads(json.dumps(tree)), sort_keys=True, separators=(",", ":"))
    return _hex(zlib.crc32(text.encode()))
