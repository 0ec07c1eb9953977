"""The zip archives of torch.save and TorchScript: their records, and storages mapped from the disk."""

from __future__ import annotations

import bisect
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from evaltk.checkpoints.inert_values import text
from evaltk.checkpoints.tensor_parts import Storage, storage_kind, whole

LOCAL_HEADER = 30  # bytes before name and extra field
UNPACKED = 1 << 30  # bytes that compressed entries may have, and so many times the archive's:
TIMES = 20


class Archive:
    """A zip archive as torch writes it: everything lies in one folder, in which `data.pkl` holds the tree.

    Raises: pickle.UnpicklingError, zipfile.BadZipFile, OSError: no such archive, or one that would unpack to much more.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            self.starts = sorted([*(entry.header_offset for entry in archive.infolist()), archive.start_dir])
        self.entries = {entry.filename: entry for entry in entries}
        if len(self.entries) < len(entries):
            raise pickle.UnpicklingError("an archive with two entries of one name")
        unpacked = sum(e.file_size for e in entries if e.compress_type != zipfile.ZIP_STORED)
        if unpacked > max(UNPACKED, TIMES * self.size):
            raise pickle.UnpicklingError(f"an archive of {self.size:,} bytes that unpacks to {unpacked:,}")
        roots = [name.removesuffix("data.pkl") for name in self.entries if _is_tree(name)]
        if len(roots) > 1:
            raise pickle.UnpicklingError(f"an archive with two trees, {roots[0][:40]} and {roots[1][:40]}")
        self.root = roots[0] if roots else ""
        self.mapped = torch.UntypedStorage.from_file(str(path), False, self.size)
        self.bytes = memoryview(as_bytes(self.mapped).numpy())
        self.storages: dict[str, torch.UntypedStorage] = {}
        order = self.record("byteorder").decode() if self.has("byteorder") else "little"
        if order not in ("little", "big"):
            raise pickle.UnpicklingError("an archive of numbers in an unknown byte order")
        self.swapped = order != sys.byteorder

    def has(self, name: str) -> bool:
        """Whether there is such a record."""
        return self.root + name in self.entries

    def names(self) -> list[str]:
        """All records."""
        return [name.removeprefix(self.root) for name in self.entries]

    def record(self, name: str) -> bytes:
        """The bytes of a record. Raises: pickle.UnpicklingError: there is none."""
        entry = self.entries.get(self.root + name)
        if entry is None:
            raise pickle.UnpicklingError(f"an archive without {name[:60]}")
        if entry.compress_type == zipfile.ZIP_STORED:
            start = self._start(entry)
            data = bytes(self.bytes[start : start + entry.file_size])
            if entry.CRC and zlib.crc32(data) != entry.CRC:  # 0: written without checksums, which torch can
                raise pickle.UnpicklingError(f"an archive whose entry {entry.filename[:60]} was changed")
            return data
        with zipfile.ZipFile(self.path) as archive, archive.open(entry) as stream:
            return stream.read(entry.file_size)

    def storage(self, key: Any) -> Storage:
        """What a persistent id of `data.pkl` stands for: ("storage", class, key, device, count of numbers)."""
        if not isinstance(key, tuple) or len(key) != 5 or key[0] not in ("storage", b"storage"):
            raise pickle.UnpicklingError("a persistent id that is no storage")
        dtype, item = storage_kind(key[1])
        name, nbytes = text(key[2])[:200], whole(key[4]) * item
        if name not in self.storages:
            self.storages[name] = self._bytes(f"data/{name}", nbytes, dtype)
        if self.storages[name].nbytes() != nbytes:
            raise pickle.UnpicklingError(f"the storage {name} in two sizes")
        return Storage(self.storages[name], dtype)

    def _bytes(self, name: str, nbytes: int, dtype: torch.dtype | None) -> torch.UntypedStorage:
        entry = self.entries.get(self.root + name)
        if entry is None or entry.file_size < nbytes:
            held = "no record" if entry is None else f"one of {entry.file_size} bytes"
            raise pickle.UnpicklingError(f"{held} where {name[:60]} takes {nbytes}")
        if nbytes == 0:
            return torch.UntypedStorage(0)
        if entry.compress_type == zipfile.ZIP_STORED:
            start = self._start(entry)
            found = self.mapped[start : start + nbytes]
        else:
            found = torch.UntypedStorage(nbytes)
            target = memoryview(as_bytes(found).numpy())
            with zipfile.ZipFile(self.path) as archive, archive.open(entry) as stream:
                fill(stream, target)
        if self.swapped and dtype is not None:
            found = found.clone()
            found.byteswap(dtype)
        return found

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Where in the file the bytes of a stored entry begin."""
        at = entry.header_offset
        header = bytes(self.bytes[at : at + LOCAL_HEADER])
        name, extra = struct.unpack("<HH", header[26:30])
        named = bytes(self.bytes[at + LOCAL_HEADER : at + LOCAL_HEADER + name])
        start = at + LOCAL_HEADER + name + extra
        end = start + entry.file_size
        after = bytes(self.bytes[end : end + 8])
        if header[:4] != b"PK\x03\x04" or named != _written(entry) or entry.flag_bits & 1:
            raise pickle.UnpicklingError(f"an archive whose entry {entry.filename[:60]} lies elsewhere")
        # This header has no checksum: its length is right if the next one follows, or a descriptor and then the next.
        gaps = (16, 24) if entry.flag_bits & 8 and entry.file_size else (0,)
        described = 0 in gaps or after == b"PK\x07\x08" + struct.pack("<I", entry.CRC)
        following = bisect.bisect_right(self.starts, entry.header_offset)
        ends = following < len(self.starts) and self.starts[following] - end in gaps
        if entry.file_size != entry.compress_size or not described or not ends:
            raise pickle.UnpicklingError(f"an archive whose entry {entry.filename[:60]} is cut off")
        return start


def _is_tree(name: str) -> bool:
    return name == "data.pkl" or (name.count("/") == 1 and name.endswith("/data.pkl"))


def _written(entry: zipfile.ZipInfo) -> bytes:
    """The entry's name as the archive spells it."""
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")


def as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The storage as a tensor of bytes that shares its memory."""
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def fill(stream: Any, target: memoryview) -> None:
    """Read the stream into `target`. Raises: EOFError: it is too short."""
    done = 0
    while done < len(target):
        count = stream.readinto(target[done:])
        if not count:
            raise EOFError("the file ends within its numbers")
        done += count
