"""The project's own files: safetensors made by `evaltk convert`, and the checkpoints that `pretrain` writes.

A converted file holds `weights.*` and `head.*` tensors and, in its metadata under ``evaltk``, JSON with everything
else a Checkpoint has. A training checkpoint has DINO's, iBOT's or MSN's layout (so that other loaders read it) plus
``evaltk_format`` and ``config``, a JSON text that states method, architecture and pixel statistics.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from evaltk.errors import CheckpointError
from evaltk.families import dino, ibot, msn
from evaltk.rawfile import Converted, RawFile, ReadOptions, tensors
from evaltk.types import Arch, Checkpoint, HeadWeights

FORMAT = 1
METHODS = {"dino": dino, "ibot": ibot, "msn": msn}
# Entries that only our training writes; the rest of the layout is the method's own.
REST = ("evaltk_format", "config", "progress", "random", "sampler", "schedules")


def claims(raw: RawFile) -> bool:
    """Our mark is in the metadata or in the tree."""
    return "evaltk" in raw.metadata or "evaltk_format" in raw.tree


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """What the file states of itself. Raises: CheckpointError: a newer format, or a damaged statement."""
    try:
        if "evaltk" in raw.metadata:
            return _converted_file(raw, json.loads(raw.metadata["evaltk"]))
        return _training_file(raw, options)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            wanted="the statement that evaltk writes into its files",
            got=f"a damaged one ({type(error).__name__}: {error})",
            where=raw.path,
            do="convert or train again",
        ) from error


def pack(checkpoint: Checkpoint) -> tuple[dict, dict[str, str]]:
    """(tensors, metadata) of the safetensors file that holds this checkpoint."""
    head = checkpoint.head
    packed = {f"weights.{k}": t.contiguous().clone() for k, t in checkpoint.weights.items()}
    if head:
        packed |= {f"head.{k}": t.contiguous().clone() for k, t in head.tensors.items()}
        if head.center is not None:
            packed["head_center"] = head.center.contiguous().clone()
    statement = {
        "format": FORMAT,
        "name": checkpoint.name,
        "family": checkpoint.family,
        "branch": checkpoint.branch,
        "arch": dataclasses.asdict(checkpoint.arch),
        "head": head.kind if head else None,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "epoch": checkpoint.epoch,
        "source_sha256": checkpoint.sha256,
        "notes": list(checkpoint.notes),
    }
    return packed, {"evaltk": json.dumps(statement, sort_keys=True)}


def _check_format(found: object, raw: RawFile) -> None:
    if found != FORMAT:
        raise CheckpointError(
            wanted=f"evaltk's file format {FORMAT}",
            got=f"format {found!r}",
            where=raw.path,
            do="install a newer evaltk",
        )


def _converted_file(raw: RawFile, said: Mapping) -> Converted:
    _check_format(said["format"], raw)
    flat = tensors(raw.tree)
    head = {k.removeprefix("head."): t for k, t in flat.items() if k.startswith("head.")}
    return Converted(
        branch=said["branch"],
        weights={k.removeprefix("weights."): t for k, t in flat.items() if k.startswith("weights.")},
        head=HeadWeights(kind=said["head"], tensors=head, center=flat.get("head_center")) if said["head"] else None,
        unexpected={k: t for k, t in flat.items() if not k.startswith(("weights.", "head.")) and k != "head_center"},
        arch=Arch(**said["arch"]),
        mean=tuple(said["mean"]),
        std=tuple(said["std"]),
        epoch=said["epoch"],
        notes=tuple(said["notes"]),
    )


def _training_file(raw: RawFile, options: ReadOptions) -> Converted:
    _check_format(raw.tree["evaltk_format"], raw)
    config = json.loads(str(raw.tree["config"]))
    method = METHODS[config["method"]]
    inner = dataclasses.replace(raw, tree={k: v for k, v in raw.tree.items() if k not in REST})
    found = method.convert(inner, options)
    return dataclasses.replace(found, arch=Arch(**config["arch"]), mean=tuple(config["mean"]), std=tuple(config["std"]))
