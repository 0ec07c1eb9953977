"""What torch.save wrote, read without executing anything: a closed list of objects, tensors mapped from the disk."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import torch

from evaltk import safe_pickle as plain_pickle
from evaltk.errors import CheckpointError, printable

# What a checkpoint may hold besides tensors and plain containers. Closed: nothing here runs code of the file.
# numpy's own dtype is left out on purpose (see plain_pickle); its numbers, which DINO logs into its optimizer state,
# come as Python's.
ALLOWED_GLOBALS = [
    argparse.Namespace,  # `args` of DINO and iBOT
    (plain_pickle.DType, "numpy.dtype"),
    (plain_pickle.scalar, "numpy.core.multiarray.scalar"),
    (plain_pickle.scalar, "numpy._core.multiarray.scalar"),
]
# What torch's reader and the stand-ins raise of a damaged file; found by mutating files byte by byte.
DAMAGE: tuple[type[Exception], ...] = (
    RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OSError, AssertionError,
    ArithmeticError, ImportError, MemoryError, struct.error, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip
REFUSED = re.compile(r"unrecognized function|Can only|not an allowed global|is blocked|which was not loaded")


def read(path: Path) -> object:
    """The tree that a torch.save file holds: tensors on the CPU, plain containers and values.

    Raises: CheckpointError: damaged, or holding objects other than tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and TorchScript: an error follows where it matters
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except DAMAGE as error:
        if "TorchScript" in str(error):
            do = "save the module's state_dict() with torch.save, or as safetensors"
            raise CheckpointError(wanted="a state_dict", got="a TorchScript archive", where=path, do=do) from error
        raise _damage(path, one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The error's first words, or its kind where it has none."""
    # torch's advice to load without the safety is left out.
    return printable(str(error).partition("In PyTorch 2.6")[0]).strip()[:160] or type(error).__name__


def _can_be_mapped(path: Path) -> bool:
    """Whether tensors can be mapped: the zip layout (torch >= 1.6), its entries stored as they are.

    A file that was unpacked and zipped again has compressed entries, which mapping would take for the numbers.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    if not zipfile.is_zipfile(path):
        raise _damage(path, f"one that is cut off (after {path.stat().st_size:,} bytes)")
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _refusal(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    # torch's own advice is to load without the safety; only what its unpickler saw is repeated.
    said = re.split(r"trusted source\.|WeightsUnpickler error:", str(error).partition("Check the documentation")[0])[-1]
    got = printable(said).strip()[:120] or type(error).__name__
    if operand := re.match(r"Unsupported operand (\d+)", got):
        return _damage(path, f"something else (byte {operand.group(1)} is no instruction that torch.save writes)")
    blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if blocked or REFUSED.search(got):
        got = f"the object {blocked.group(1)}" if blocked else got.removesuffix(", which was not loaded")
        do = "save a plain state_dict with torch.save, or as safetensors, where you trust the file"
        wanted = "tensors and plain values only"
        return CheckpointError(wanted=wanted, got=f"{got}, which was not loaded", where=path, do=do)
    return _damage(path, got)


def _damage(path: Path, got: str) -> CheckpointError:
    wanted = "a whole file written by torch.save"
    return CheckpointError(wanted=wanted, got=got, where=path, do="download it again, or save it again by torch.save")
