"""A weight file or folder as it lies on disk: opened without executing anything, its keys sorted by prefix and rule."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from evaltk.checkpoints import folder, locate, nets, torchfile
from evaltk.checkpoints.locate import Located
from evaltk.checkpoints.names.renamed import Rename
from evaltk.checkpoints.nets import Net
from evaltk.checkpoints.plain_tree import Skipped, walk
from evaltk.errors import CheckpointError
from evaltk.types import Arch, EvalView, HeadWeights, OriginProof, PositionRule, Recipe

__all__ = ["Converted", "RawFile", "pattern", "read", "rest_rules", "strip", "tensors", "walk"]


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """What a file or folder holds.

    Attributes:
        path: the file, or the folder.
        sha256: of the file; over config and weights where there is a config (`folder.digest`).
        weights_sha256: of each weight file.
        tree: tensors (mapped from disk, not read), numbers, strings, dicts and lists.
        metadata: what a safetensors file says of itself; empty for other files.
        config: the folder's config.json of transformers or timm, {} without.
        preprocessor: the folder's preprocessor_config.json, {} without.
        skipped: objects beside the weights that were not rebuilt, by their place in the tree: ``args: my.Config``.
        torchscript: whether it is a TorchScript archive; `tree` is then its state dict.
        origin: where it was downloaded from, ``hf:ORG/NAME@COMMIT``; empty for a path.
    """

    path: Path
    sha256: str
    tree: Mapping[str, object]
    weights_sha256: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    preprocessor: Mapping[str, object] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    torchscript: bool = False
    origin: str = ""

    @cached_property
    def nets(self) -> tuple[Net, ...]:
        """The nets in it of layouts that are known."""
        return nets.find(self.tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One weight file, opened."""

    tree: Mapping[str, object]
    metadata: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    torchscript: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A net in the names of its file, and what renames it: for errors, which name tensors as the file does."""

    tensors: Mapping[str, torch.Tensor]
    rename: Rename


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a family makes of a file, before it is checked against an architecture.

    Attributes:
        weights: {our key: tensor}; dropped: {key: rule}; unexpected: tensors no rule of the family names.
        arch: given where the file states it in full, else read from the tensors.
        kind: of the net, where the family has one kind alone whose tensors another's could resemble.
        num_heads, norm_eps, mean, std: fixed by the family, or None where nothing fixes them.
        heads_of_width: {width: heads} of the family's published nets; empty where the width fixes nothing.
        activation: of the MLPs, None where nothing fixes it. stem: of a ResNet, likewise.
        img_size: the size the net was trained for, where tensors do not tell it. pool: as in `Arch`, likewise.
        stated: {field of `Arch`: value} that a configuration beside the file states and the tensors must agree with.
        hint_arch, hint_patch: what the file says of itself (`args.arch`, `args.patch_size`).
        epoch, trained_seed: epochs done and the seed of the training run, where the file states them.
        origin_proof: what the file itself proves of where it is from.
        position, view, linear, container: as in `Checkpoint`.
        source: where the weights were renamed, for errors.
    """

    branch: str
    weights: Mapping[str, torch.Tensor]
    head: HeadWeights | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    unexpected: Mapping[str, torch.Tensor] = field(default_factory=dict)
    arch: Arch | None = None
    kind: str | None = None
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
    pool: str | None = None
    stated: Mapping[str, object] = field(default_factory=dict)
    position: PositionRule | None = None
    view: EvalView = field(default_factory=EvalView)
    linear: Recipe | None = None
    container: str = ""
    source: Source | None = None


def read(file: Located | Path) -> RawFile:
    """Open a weight file, or the weights and configs of a folder. Tensors stay on disk until they are used.

    Nothing in the files is executed.

    Args: file: a path, or what was located before, whose bytes are not hashed again.

    Raises: CheckpointError: no weight file, damaged, a pickled module, shards that contradict their index.
    """
    found = locate.at(file) if isinstance(file, Path) else file
    source = folder.of(found.path)
    parts = [_open(path) for path in source.weights]
    whole = parts[0] if len(parts) == 1 and not source.placed else _merge(source, parts, found.path)
    return RawFile(
        path=found.path,
        sha256=found.sha256,
        weights_sha256=found.weights,
        tree=whole.tree,
        metadata=whole.metadata,
        config=folder.read_json(source.config) if source.config else {},
        preprocessor=folder.read_json(source.preprocessor) if source.preprocessor else {},
        skipped=whole.skipped,
        torchscript=whole.torchscript,
        origin=found.origin,
    )


def _open(path: Path) -> _Part:
    locate.check_file(path)
    if _is_safetensors(path):
        tree, metadata = _read_safetensors(path)
        return _Part(tree=tree, metadata=metadata)
    opened = torchfile.open_file(path)
    if not isinstance(opened.tree, Mapping):
        held = opened.tree
        got = f"a {held.name if isinstance(held, Skipped) else type(held).__name__}"
        raise CheckpointError(wanted="a dict of tensors", got=got, where=path, do="save model.state_dict() instead")
    for key, tensor in walk(opened.tree):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            got = f"{key}, {'quantized' if tensor.is_quantized else f'{tensor.layout} on {tensor.device}'}"
            raise CheckpointError(wanted="dense tensors", got=got, where=path, do="save plain float tensors")
    return _Part(tree=opened.tree, skipped=opened.skipped, torchscript=opened.torchscript)


def _merge(source: folder.Source, parts: list[_Part], where: Path) -> _Part:
    """The shards as one flat tree. Raises: CheckpointError: a tensor in two, in none, or not where the index says."""
    tree: dict[str, object] = {}
    for path, part in zip(source.weights, parts, strict=True):
        for key, value in part.tree.items():
            said = source.placed.get(key)
            if said != path.name or key in tree:
                got = f"{key} in {path.name}, of which the index says {said or 'nothing'}"
                do = "download the folder again"
                raise CheckpointError(wanted="each tensor in the shard of its index", got=got, where=where, do=do)
            tree[key] = value
    if missing := [key for key in source.placed if key not in tree]:
        got = f"{len(missing)} that are in no shard, as {missing[0]}"
        raise CheckpointError(wanted="every tensor of the index", got=got, where=where, do="download the folder again")
    skipped = tuple(sorted(name for part in parts for name in part.skipped))
    return _Part(tree=tree, metadata=parts[0].metadata, skipped=skipped)


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(9)
    if len(start) < 9:
        return path.suffix == ".safetensors"
    (length,) = struct.unpack("<Q", start[:8])
    return path.suffix == ".safetensors" or (start[8:9] == b"{" and length < path.stat().st_size)


def _read_safetensors(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # which the library refuses, whatever the file is like
        got, do = "another", "rename the file or folder, or link to it under another name"
        raise CheckpointError(wanted="a path in UTF-8", got=got, where=path, do=do) from error
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
    counted = [key for key, tensor in unknown.items() if is_bookkeeping(key, tensor)]
    return dropped | dict.fromkeys(counted, "bookkeeping"), {k: t for k, t in unknown.items() if k not in counted}


def is_bookkeeping(key: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor outside of a net's names is a number or a state of random draws that a training keeps."""
    return (tensor.ndim == 0 and not key.endswith("num_batches_tracked")) or "rng_state" in key
