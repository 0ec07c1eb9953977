"""A weight file as it lies on disk: opened without executing anything, and its keys sorted by prefix and rule."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from evaltk import files, plain_pickle
from evaltk.errors import CheckpointError
from evaltk.types import Arch, HeadWeights

# What a checkpoint may hold besides tensors and plain containers. Closed: nothing here runs code of the file.
# numpy's own dtype is left out on purpose (see plain_pickle); its numbers, which DINO logs into its optimizer state,
# come as Python's.
ALLOWED_GLOBALS = [
    argparse.Namespace,  # `args` of DINO and iBOT
    (plain_pickle.DType, "numpy.dtype"),
    (plain_pickle.scalar, "numpy.core.multiarray.scalar"),
    (plain_pickle.scalar, "numpy._core.multiarray.scalar"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """The tree of a file: tensors (mapped from disk, not read), numbers, strings, dicts and lists.

    `metadata` is what a safetensors file says of itself; empty for other files.
    """

    path: Path
    sha256: str
    tree: Mapping[str, object]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What a user can say about a file where its tensors do not (None: not said)."""

    branch: str | None = None
    family: str | None = None
    num_heads: int | None = None
    norm_eps: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a family makes of a file, before it is checked against an architecture.

    Attributes:
        weights: {our key: tensor}; dropped: {key: rule}; unexpected: tensors no rule of the family names.
        arch: given where the file states it in full, else read from the tensors.
        num_heads, norm_eps, mean, std: fixed by the family, or None where nothing fixes them.
        hint_arch, hint_patch: what the file says of itself (`args.arch`, `args.patch_size`).
    """

    branch: str
    weights: Mapping[str, torch.Tensor]
    head: HeadWeights | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    unexpected: Mapping[str, torch.Tensor] = field(default_factory=dict)
    arch: Arch | None = None
    norm_eps: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    num_heads: int | None = None
    hint_arch: str | None = None
    hint_patch: int | None = None
    epoch: int | None = None
    notes: tuple[str, ...] = ()


def check_path(path: Path) -> None:
    """Refuse what cannot be a weight file before any work. Raises: CheckpointError."""
    wanted = "a weight file (.pth, .pt, .pth.tar, .safetensors)"
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir())[:5]
        raise CheckpointError(wanted=wanted, got=f"a folder holding {inside}", where=path, do="name one file inside it")
    if not path.is_file():
        raise CheckpointError(
            wanted=wanted,
            got="no such file",
            where=path,
            do="check the path; `evaltk ls checkpoints` shows the names that can be fetched",
        )
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        raise CheckpointError(wanted=wanted, got="an empty file", where=path, do="download it again")
    if start.lstrip()[:1] == b"<":
        title = re.sub(rb"\s+", b" ", start)[:60].decode(errors="replace")
        raise CheckpointError(
            wanted=wanted,
            got=f"a web page ({title!r})",
            where=path,
            do="download the file itself, not the page about it",
        )


def read(path: Path) -> RawFile:
    """Open a weight file. Tensors stay on disk until they are used; nothing in the file is executed.

    Raises: CheckpointError: no weight file, damaged, or holding objects other than tensors and plain values.
    """
    check_path(path)
    tree, metadata = _read_safetensors(path) if _is_safetensors(path) else (_read_torch(path), {})
    if not isinstance(tree, Mapping):
        got = f"a {type(tree).__name__}"
        raise CheckpointError(wanted="a dict of tensors", got=got, where=path, do="save model.state_dict() instead")
    return RawFile(path=path, sha256=files.sha256(path), tree=tree, metadata=metadata)


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(9)
    if len(start) < 9:
        return path.suffix == ".safetensors"
    (length,) = struct.unpack("<Q", start[:8])
    return path.suffix == ".safetensors" or (start[8:9] == b"{" and length < path.stat().st_size)


def _read_safetensors(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(
            wanted="a whole safetensors file", got=_one_line(error), where=path, do="download or save it again"
        ) from error


def _read_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS):
            # Memory-mapping reads only what is used of the file, but needs the zip layout (torch >= 1.6).
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        inner = re.search(r"WeightsUnpickler error: *(.+)", str(error))
        got = f"the object {blocked.group(1)}" if blocked else (inner.group(1)[:120] if inner else _one_line(error))
        raise CheckpointError(
            wanted="tensors and plain values only",
            got=f"{got}, which was not loaded",
            where=path,
            do="save a plain state_dict with torch.save, or as safetensors, where you trust the file",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise CheckpointError(
            wanted="a whole file written by torch.save",
            got=_one_line(error),
            where=path,
            do="download or save it again",
        ) from error


def _one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:160] or type(error).__name__


def tensors(tree: object) -> dict[str, torch.Tensor]:
    """The tensors directly under `tree` ({} where it is no dict)."""
    return {str(k): v for k, v in tree.items() if isinstance(v, torch.Tensor)} if isinstance(tree, Mapping) else {}


def walk(tree: object, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in the tree with its dotted path."""
    if isinstance(tree, torch.Tensor):
        yield prefix, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from walk(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from walk(value, f"{prefix}.{i}")


def strip(items: Mapping[str, torch.Tensor], *prefixes: str) -> dict[str, torch.Tensor]:
    """Remove each of `prefixes` from the front of the keys that start with it, repeatedly, in the order given."""
    out: dict[str, torch.Tensor] = {}
    for key, value in items.items():
        short = key
        for prefix in prefixes:
            while short.startswith(prefix):
                short = short.removeprefix(prefix)
        if short in out:
            raise CheckpointError(
                wanted="one tensor a key",
                got=f"two that are both {short!r} once prefixes are stripped",
                where=key,
                do="save one net a file",
            )
        out[short] = value
    return out


def pattern(key: str) -> str:
    """The key with its numbers replaced by N: blocks.3.norm1.bias -> blocks.N.norm1.bias."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "N", key)


def rest_rules(tree: Mapping[str, object], rules: Mapping[str, str], taken: Iterable[str]) -> tuple[dict, dict]:
    """Sort a file's other top-level entries: ({key: rule that drops it}, {key: tensor} no rule names)."""
    used = set(taken)
    dropped = {key: rules[key] for key in tree if key in rules and key not in used}
    unknown = {k: t for key in tree if key not in rules and key not in used for k, t in walk(tree[key], key)}
    return dropped, unknown
