"""A weight file as it lies on disk: opened without executing anything, and its keys sorted by prefix and rule."""

from __future__ import annotations

import argparse
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from evaltk.checkpoints import locate, nets, torchfile
from evaltk.checkpoints.locate import Located
from evaltk.checkpoints.nets import Net
from evaltk.errors import CheckpointError
from evaltk.types import Arch, EvalView, HeadWeights, OriginProof, PositionRule, Recipe

MAX_DEPTH = 64  # of dicts and lists in dicts and lists; a file that holds itself has no end


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """The tree of a file: tensors (mapped from disk, not read), numbers, strings, dicts and lists.

    `metadata` is what a safetensors file says of itself; empty for other files.
    """

    path: Path
    sha256: str
    tree: Mapping[str, object]
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    preprocessor: Mapping[str, object] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    torchscript: bool = False

    @cached_property
    def nets(self) -> tuple[Net, ...]:
        """The nets in it of layouts that are known."""
        return nets.find(self.tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a family makes of a file, before it is checked against an architecture.

    Attributes:
        weights: {our key: tensor}; dropped: {key: rule}; unexpected: tensors no rule of the family names.
        arch: given where the file states it in full, else read from the tensors.
        num_heads, norm_eps, mean, std: fixed by the family, or None where nothing fixes them.
        heads_of_width: {width: heads} of the family's published nets; empty where the width fixes nothing.
        activation: of the MLPs, None where nothing fixes it. stem: of a ResNet, likewise.
        img_size: the size the net was trained for, where tensors do not tell it.
        stated: {field of `Arch`: value} that a configuration beside the file states and the tensors must agree with.
        hint_arch, hint_patch: what the file says of itself (`args.arch`, `args.patch_size`).
        epoch, trained_seed: epochs done and the seed of the training run, where the file states them.
        origin_proof: what the file itself proves of where it is from.
        position, view, linear, container: as in `Checkpoint`.
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
    heads_of_width: Mapping[int, int] = field(default_factory=dict)
    hint_arch: str | None = None
    hint_patch: int | None = None
    epoch: int | None = None
    trained_seed: int | None = None
    origin_proof: OriginProof = OriginProof.NONE
    notes: tuple[str, ...] = ()
    activation: str | None = "gelu"
    stem: str | None = None
    img_size: int | None = None
    stated: Mapping[str, object] = field(default_factory=dict)
    position: PositionRule | None = None
    view: EvalView = field(default_factory=EvalView)
    linear: Recipe | None = None
    container: str = ""


def read(file: Located | Path) -> RawFile:
    """Open a weight file. Tensors stay on disk until they are used; nothing in the file is executed.

    Args: file: a path, or a file located before, whose bytes are not hashed again.

    Raises: CheckpointError: no weight file, damaged, or holding objects other than tensors and plain values.
    """
    path = file if isinstance(file, Path) else file.path
    locate.check_file(path)
    tree, metadata = _read_safetensors(path) if _is_safetensors(path) else (torchfile.read(path), {})
    if not isinstance(tree, Mapping):
        got = f"a {type(tree).__name__}"
        raise CheckpointError(wanted="a dict of tensors", got=got, where=path, do="save model.state_dict() instead")
    for key, tensor in walk(tree):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            got = f"{key}, {'quantized' if tensor.is_quantized else f'{tensor.layout} on {tensor.device}'}"
            raise CheckpointError(wanted="dense tensors", got=got, where=path, do="save plain float tensors")
    sha256 = locate.sha256(path) if isinstance(file, Path) else file.sha256
    return RawFile(path=path, sha256=sha256, tree=tree, metadata=metadata)


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
