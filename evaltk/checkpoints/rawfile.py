"""A weight file as it lies on disk: opened without executing anything, and its keys sorted by prefix and rule."""

from __future__ import annotations

import argparse
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from evaltk import files
from evaltk.checkpoints import torchfile
from evaltk.errors import CheckpointError, SettingsError
from evaltk.types import Arch, HeadWeights, OriginProof

WANTED = "a weight file (.pth, .pt, .pth.tar, .safetensors)"
# How files start that are something else: (first bytes, what they are, what to do).
IMPOSTORS = (
    (b"<", "a web page", "download the file itself, not the page about it"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to get the file itself"),
)
MAX_DEPTH = 64  # of dicts and lists in dicts and lists; a file that holds itself has no end


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
        epoch, trained_seed: epochs done and the seed of the training run, where the file states them.
        origin_proof: what the file itself proves of where it is from.
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
    trained_seed: int | None = None
    origin_proof: OriginProof = OriginProof.NONE
    notes: tuple[str, ...] = ()


def check_options(options: ReadOptions) -> None:
    """Refuse what no file could mean. Raises: SettingsError."""

    def refuse(wanted: str, got: object, flag: str) -> None:
        raise SettingsError(wanted=wanted, got=str(got), where=flag, do="mend the flag")

    if options.num_heads is not None and options.num_heads < 1:
        refuse("at least 1 attention head", options.num_heads, "--num-heads")
    if options.norm_eps is not None and not 0 < options.norm_eps < 1:
        refuse("an epsilon in (0, 1)", options.norm_eps, "--norm-eps")
    if options.mean is not None and not (len(options.mean) == 3 and all(0 <= v <= 1 for v in options.mean)):
        refuse("a mean R G B, each in [0, 1] (divide by 255)", options.mean, "--mean")
    if options.std is not None and not (len(options.std) == 3 and all(0 < v <= 1 for v in options.std)):
        refuse("a standard deviation R G B, each in (0, 1] (divide by 255)", options.std, "--std")


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that no file can have is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_path(path: Path) -> None:
    """Refuse what cannot be a weight file before any work. Raises: CheckpointError."""
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir())[:5]
            do = "name one file inside it"
            raise CheckpointError(wanted=WANTED, got=f"a folder holding {inside}", where=path, do=do)
        if not path.is_file():
            got = "something that is no plain file" if path.exists() else "no such file"
            do = "check the path; `evaltk ls checkpoints` shows the names that can be fetched"
            raise CheckpointError(wanted=WANTED, got=got, where=path, do=do)
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not start:
        raise CheckpointError(wanted=WANTED, got="an empty file", where=path, do="download it again")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for first, what, do in IMPOSTORS:
        if text.startswith(first):
            title = re.sub(rb"\s+", b" ", text)[:60].decode(errors="replace")
            raise CheckpointError(wanted=WANTED, got=f"{what} ({title!r})", where=path, do=do)


def read(path: Path) -> RawFile:
    """Open a weight file. Tensors stay on disk until they are used; nothing in the file is executed.

    Raises: CheckpointError: no weight file, damaged, or holding objects other than tensors and plain values.
    """
    check_path(path)
    tree, metadata = _read_safetensors(path) if _is_safetensors(path) else (torchfile.read(path), {})
    if not isinstance(tree, Mapping):
        got = f"a {type(tree).__name__}"
        raise CheckpointError(wanted="a dict of tensors", got=got, where=path, do="save model.state_dict() instead")
    for key, tensor in walk(tree):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            got = f"{key}, {'quantized' if tensor.is_quantized else f'{tensor.layout} on {tensor.device}'}"
            raise CheckpointError(wanted="dense tensors", got=got, where=path, do="save plain float tensors")
    try:
        return RawFile(path=path, sha256=files.sha256(path), tree=tree, metadata=metadata)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    do = "check the path and your right to read it"
    return CheckpointError(wanted=WANTED, got=error.strerror or str(error), where=str(path)[:200], do=do)


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
            wanted="a whole safetensors file", got=torchfile.one_line(error), where=path, do="download or save it again"
        ) from error


def tensors(tree: object) -> dict[str, torch.Tensor]:
    """The tensors directly under `tree` ({} where it is no dict). Raises: CheckpointError: keys that read the same."""
    found = [(str(k), v) for k, v in tree.items() if isinstance(v, torch.Tensor)] if isinstance(tree, Mapping) else []
    if len(dict(found)) < len(found):
        do = "save it with text for keys"
        raise CheckpointError(wanted="one tensor a key", got="a number and its text as keys", where="file", do=do)
    return dict(found)


def walk(tree: object, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in the tree with its dotted path; a container that is held twice is walked once.

    Raises: CheckpointError: a tree without end.
    """
    return _walk(tree, prefix, 0, set())


def _walk(tree: object, prefix: str, depth: int, walked: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield prefix, tree
    elif isinstance(tree, Mapping | list | tuple | argparse.Namespace) and id(tree) not in walked:
        walked.add(id(tree))
        if depth == MAX_DEPTH:
            wanted = f"a tree of at most {MAX_DEPTH} levels"
            raise CheckpointError(wanted=wanted, got="more", where=prefix[:80], do="save a plain state_dict")
        inner = vars(tree) if isinstance(tree, argparse.Namespace) else tree
        for key, value in inner.items() if isinstance(inner, Mapping) else enumerate(inner):
            yield from _walk(value, f"{prefix}.{key}" if prefix else str(key), depth + 1, walked)


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
    """Sort a file's other top-level entries: ({key: rule that drops it}, {key: tensor} no rule names).

    Args:
        taken: entries whose own tensors are used; what lies deeper in them is reported as unnamed.
    """
    used = set(taken)
    dropped = {key: rules[key] for key in tree if key in rules and key not in used}
    unknown = {k: t for key in tree if key not in rules and key not in used for k, t in walk(tree[key], str(key))}
    for key in used:
        inner = tree[key]
        deep = inner.items() if isinstance(inner, Mapping) else []
        unknown |= {k: t for k, v in deep if not isinstance(v, torch.Tensor) for k, t in walk(v, f"{key}.{k}")}
    return dropped, unknown
