"""What torch.save wrote, read without executing anything: tensors mapped from the disk, objects skipped and named."""

from __future__ import annotations

import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from evaltk.checkpoints import foreign, foreign_files, tensor_parts, torchscript
from evaltk.checkpoints.archive import Archive, as_bytes, fill
from evaltk.checkpoints.inert_pickle import Reader
from evaltk.checkpoints.inert_values import HostileError, Name, text
from evaltk.checkpoints.plain_tree import plain
from evaltk.checkpoints.tensor_parts import Storage, storage_kind, whole
from evaltk.errors import CheckpointError, printable

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what torch.save wrote first before version 1.6
# What reading a damaged file raises; found by mutating files byte by byte.
DAMAGE: tuple[type[Exception], ...] = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OSError,
    AssertionError, ArithmeticError, ImportError, MemoryError, struct.error, tarfile.TarError, zipfile.BadZipFile,
    zlib.error, lzma.LZMAError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The tree of a file, the objects in it that were skipped, and whether it is a TorchScript archive."""

    tree: object
    skipped: tuple[str, ...] = ()
    torchscript: bool = False


def read(path: Path) -> object:
    """The tree of `open_file`."""
    return open_file(path).tree


def open_file(path: Path) -> Opened:
    """Open a file of torch.save or torch.jit.save: tensors on the CPU, plain containers and values.

    Raises: CheckpointError: damaged, a pickled module instead of its state_dict, a file of something else, or one that
        would call what reaches outside of the process.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start == b"PK\x03\x04":
            return _zipped(path)
        if start and _is_tar(path):
            with tarfile.open(path) as archive:
                foreign_files.refuse_archive(path, archive.getnames())
        with path.open("rb") as stream:
            tree = _legacy(path, stream)
        out, skipped = plain(tree, path)
        return Opened(tree=out, skipped=skipped)
    except HostileError as error:
        raise CheckpointError(
            wanted="tensors and plain values only",
            got=f"a call of {error}, which was not made: loading this file elsewhere would run it",
            where=path,
            do="delete the file: it is an attack, or was tampered with",
        ) from error
    except DAMAGE as error:
        said = one_line(error)
        vague = isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError)
        raise _damage(path, f"a damaged one ({said})" if vague else said) from error


def one_line(error: BaseException) -> str:
    """The error's first words, or its kind where it has none."""
    # torch's advice to load without the safety is left out.
    said = printable(str(error).partition("In PyTorch 2.6")[0]).strip()[:160] or type(error).__name__
    if said.startswith("Unsupported operand"):
        return f"something else (byte {said.split()[-1]} is no instruction that torch.save writes)"
    return said


def _zipped(path: Path) -> Opened:
    if not zipfile.is_zipfile(path):
        raise _damage(path, f"one that is cut off (after {path.stat().st_size:,} bytes)")
    archive = Archive(path)
    if not archive.has("data.pkl"):
        foreign_files.refuse_archive(path, archive.names())
    data = archive.record("data.pkl")
    if archive.has("constants.pkl"):
        return Opened(tree=torchscript.state_dict(archive, data), torchscript=True)
    reader = Reader(io.BytesIO(data), len(data), calls=tensor_parts.calls(), persistent=archive.storage)
    tree, skipped = plain(reader.load(), path)
    return Opened(tree=tree, skipped=skipped)


def _legacy(path: Path, stream: BinaryIO) -> object:
    """The tree of a file from before torch 1.6: pickles one after the other, then the numbers of every storage."""
    size = path.stat().st_size
    held = _Storages(size)
    reader = Reader(stream, size, calls=tensor_parts.calls(), persistent=held)
    first = reader.load()
    if first != MAGIC:
        what, do = foreign.describe_pickle(first)
        raise CheckpointError(wanted="a whole file written by torch.save", got=what, where=path, do=do)
    if reader.load() != PROTOCOL:
        raise pickle.UnpicklingError("a protocol that torch.save never had")
    system = reader.load()
    if not isinstance(system, dict) or system.get("little_endian") is False:
        raise pickle.UnpicklingError("numbers in big-endian order")
    tree, keys = reader.load(), reader.load()
    if not isinstance(keys, list) or sorted(map(text, keys)) != sorted(held.roots):
        raise pickle.UnpicklingError("other storages than the tree's")
    for key in keys:
        data, item = held.roots[key]
        if reader.number("<q") * item != data.nbytes():
            raise pickle.UnpicklingError(f"a storage {key[:40]} of another size")
        fill(stream, memoryview(as_bytes(data).numpy()))
    return tree


class _Storages:
    """Storages by their keys, empty until the numbers come."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.roots: dict[str, tuple[torch.UntypedStorage, int]] = {}

    def __call__(self, key: Any) -> object:
        if isinstance(key, tuple) and len(key) > 1 and key[0] in ("module", b"module"):
            return key[1] if isinstance(key[1], Name) else Name("torch.nn.Module")  # its source is beside it
        if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] not in ("storage", b"storage"):
            raise pickle.UnpicklingError("a persistent id that is no storage")
        dtype, item = storage_kind(key[1])
        name, nbytes = text(key[2]), whole(key[4]) * item
        if name not in self.roots:
            self.left -= nbytes
            if self.left < 0:
                raise EOFError("the file ends before its numbers do")
            self.roots[name] = (torch.UntypedStorage(nbytes), item)
        data, held = self.roots[name]
        if held != item or data.nbytes() != nbytes:
            raise pickle.UnpicklingError(f"the storage {name[:40]} in two sizes")
        if len(key) == 6 and key[5] is not None:
            _, offset, count = key[5]
            first, last = whole(offset) * item, (whole(offset) + whole(count)) * item
            if last > nbytes:
                raise pickle.UnpicklingError("a part of a storage that lies outside of it")
            data = data[first:last] if last > first else torch.UntypedStorage(0)
        return Storage(data, dtype)


def _is_tar(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(262)[257:] == b"ustar"


def _damage(path: Path, got: str) -> CheckpointError:
    wanted = "a whole file written by torch.save"
    return CheckpointError(wanted=wanted, got=got, where=path, do="download it again, or save it again by torch.save")
