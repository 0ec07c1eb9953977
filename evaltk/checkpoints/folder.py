"""Which files of a folder are the checkpoint: folders as the Hugging Face hub has them, with the config beside.

Without torch. Folders that training frameworks shard are named in `sharded`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaltk import safe_json
from evaltk.checkpoints import sharded
from evaltk.checkpoints.foreign_files import CONVERT_FLAX, CONVERT_TF, SAVE, WANTED
from evaltk.errors import CheckpointError, some
from evaltk.files import WEIGHTS

CONFIG, PREPROCESSOR, CLIP_CONFIG = "config.json", "preprocessor_config.json", "open_clip_config.json"
# Names of weights on the hub, in the order in which they are taken: (whole, index of its shards, config beside it).
# The formats of one repository hold the same net.
HUB: tuple[tuple[str, str, str], ...] = (
    ("model.safetensors", "model.safetensors.index.json", CONFIG),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", CONFIG),
    ("open_clip_model.safetensors", "", CLIP_CONFIG),
    ("open_clip_pytorch_model.bin", "", CLIP_CONFIG),
)
# Files that are the net in another form, or no net: (name, what, what to do).
OTHERS = (
    ("adapter_config.json", "an adapter (LoRA) without its base net", "merge it into the base net (peft) and save it"),
    ("tf_model.h5", "TensorFlow weights only (tf_model.h5)", CONVERT_TF),
    ("flax_model.msgpack", "Flax weights only (flax_model.msgpack)", CONVERT_FLAX),
    ("saved_model.pb", "a TensorFlow SavedModel", CONVERT_TF),
    ("model_index.json", "a pipeline of diffusers", "name the folder of its vision encoder, if it has one"),
    ("model.onnx", "an ONNX graph only", SAVE),
)  # fmt: skip
SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")
BESIDE = re.compile(r"(README.*|LICENSE.*|\..*)", re.I)  # what may lie beside a lone weight file
JSON_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of a checkpoint.

    Attributes:
        weights: one file, or its shards in the order of their names.
        placed: {tensor: name of its shard} as the index says; empty for one file.
        config, preprocessor: the JSON files beside them, None without.
    """

    weights: tuple[Path, ...]
    placed: Mapping[str, str] = field(default_factory=dict)
    config: Path | None = None
    preprocessor: Path | None = None


def of(path: Path) -> Source:
    """The files that a file or folder stands for. A file with a name of the hub has the config of its folder.

    Raises: CheckpointError: a folder that holds no checkpoint, several, one in another form, or a part of one.
    """
    if not path.is_dir():
        if SHARD.search(path.name) and path.name.startswith(("model", "pytorch_model")):
            do = f"name its folder, {path.parent}"
            raise CheckpointError(wanted="a whole checkpoint", got="one shard of it", where=path, do=do)
        config = next((config for whole, _, config in HUB if whole == path.name), "")
        return _beside(path.parent, (path,), config) if config else Source(weights=(path,))
    names = {p.name for p in path.iterdir()}
    if picked := pick(names, lambda name: read_json(path / name), path):
        weights, placed, config = picked
        return _beside(path, tuple(path / name for name in weights), config, placed)
    if whole := sharded.whole_file(path):
        return Source(weights=(whole,))
    sharded.refuse(path)
    for name, what, do in OTHERS:
        if name in names:
            raise CheckpointError(wanted="PyTorch weights", got=what, where=path, do=do)
    found = [p for p in sorted(path.iterdir()) if WEIGHTS.search(p.name) and p.is_file()]
    if len(found) == 1 and CONFIG in names:
        return _beside(path, (found[0],), CONFIG)
    if len(found) == 1 and all(p == found[0] or BESIDE.fullmatch(p.name) for p in path.iterdir()):
        return Source(weights=(found[0],))
    inside = some([repr(name) for name in sorted(names)], 5) or "nothing"
    raise CheckpointError(wanted=WANTED, got=f"a folder holding {inside}", where=path, do="name one file inside it")


def pick(
    names: Iterable[str], read: Callable[[str], Mapping[str, Any]], where: object
) -> tuple[tuple[str, ...], Mapping[str, str], str] | None:
    """(weight files, {tensor: shard}, name of the config) of a folder with the hub's names, or None.

    Args: read: the content of a JSON file of the folder, by its name.

    Raises: CheckpointError: an index that is none, that names files elsewhere, or shards that are not there.
    """
    there = set(names)
    for whole, index, config in HUB:
        if whole in there:
            return (whole,), {}, config
        if index and index in there:
            placed = _placed(read(index), f"{where}/{index}")
            shards = tuple(sorted(set(placed.values())))
            if missing := [name for name in shards if name not in there]:
                got = f"{len(missing)} missing: {some(missing, 3)}"
                do = "download the folder again: its index names them"
                raise CheckpointError(wanted=f"{len(shards)} shards", got=got, where=where, do=do)
            return shards, placed, config
    return None


def _placed(index: Mapping[str, Any], where: str) -> dict[str, str]:
    placed = index.get("weight_map")
    do = "download the index again"
    if not isinstance(placed, dict) or not placed or not all(isinstance(v, str) for v in placed.values()):
        raise CheckpointError(wanted="an index with weight_map: {tensor: file}", got="none", where=where, do=do)
    for name in placed.values():
        if not re.fullmatch(r"[\w.-]+\.(safetensors|bin)", name) or name.startswith("."):
            got = f"{name[:80]!r}"
            raise CheckpointError(wanted="an index of files of its own folder", got=got, where=where, do=do)
    return placed


def _beside(root: Path, weights: tuple[Path, ...], config: str, placed: Mapping[str, str] | None = None) -> Source:
    found = {name: root / name if (root / name).is_file() else None for name in (config, PREPROCESSOR)}
    preprocessor = found[PREPROCESSOR] if found[config] else None
    return Source(weights=weights, placed=placed or {}, config=found[config], preprocessor=preprocessor)


def digest(source: Source, sha256: Callable[[Path], str]) -> tuple[str, tuple[str, ...]]:
    """(sha256 in hex of what decides the net, those of the weight files).

    That of the file where it stands alone; with shards or a config it is over config, preprocessor and weights, so a
    folder and its only weight file have one digest.
    """
    weights = tuple(sha256(path) for path in source.weights)
    if len(weights) == 1 and source.config is None:
        return weights[0], weights
    parts = {
        "config": sha256(source.config) if source.config else "",
        "preprocessor": sha256(source.preprocessor) if source.preprocessor else "",
        "weights": sorted(weights),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), weights


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises: CheckpointError: no JSON, no object, a key twice, NaN, nested without end, or above 16 MB.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def number(text: str) -> float:
        raise ValueError(f"the number {text}")

    try:
        if path.stat().st_size > JSON_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        text, whole = path.read_text(encoding="utf-8"), safe_json.whole
        found = json.loads(text, object_pairs_hook=once, parse_constant=number, parse_int=whole)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        got = str(error)[:120] or type(error).__name__
        do = "correct it, or download it again"
        raise CheckpointError(wanted="a JSON object", got=got, where=path, do=do) from error
    return found
