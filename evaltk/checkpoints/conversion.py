"""From a net found in a file to what its family makes of it, every tensor of the file accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from evaltk.checkpoints import diagnose, state_dicts
from evaltk.checkpoints.names.renamed import Rename
from evaltk.checkpoints.nets import NO_NETS, Net
from evaltk.checkpoints.rawfile import Converted, RawFile, Source, is_bookkeeping, walk
from evaltk.errors import CheckpointError, some
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, EvalView, OriginProof

IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
BILINEAR = EvalView(interpolation="bilinear")
# Parts of a training beside the net, by the first words of their names.
BESIDE = re.compile(
    r"(\w+_)?(projector|projection_head|prediction_head|predictor|proj|head|heads|classifier|neck|criterion|queue\d*"
    r"|queue_ptr|prototypes?|decoder|target_generator|data_preprocessor|fc|bn|mask_token|logit_scale|logit_bias"
    r"|\w*loss\w*|projector_k|predictor_k|lm_head|pooler|text_projection|visual_projection|positional_embedding"
    r"|token_embedding|ln_final|transformer|text|text_model|visual|attn_mask|input_resolution|context_length|vocab_size)"
    r"(\..*)?"
)
TABLE = "rel_pos_bias.relative_position_bias_table"  # of BEiT, where all blocks share it
LIGHTNING = "pytorch-lightning_version"
OTHER = "another part of the training"


def converted(
    raw: RawFile,
    net: Net,
    rename: Rename,
    *,
    need: Sequence[str] = (),
    without: Sequence[str] = (),
    used: tuple[str, ...] = (),
    **facts: Any,
) -> Converted:
    """What a family makes of a net: its renamed weights, facts, and the rule that drops each other entry.

    Args:
        rename: from the net's own names to timm's.
        need: weights that every net of the family has, though another family's could lack them; without: the reverse.
        used: starts of the names that a projection head among the facts is made of, where there is one.

    Raises: CheckpointError: one of them is missing.
    """
    numbers = {key for key, tensor in net.tensors.items() if "." not in key and is_bookkeeping(key, tensor)}
    net = replace(net, tensors={key: tensor for key, tensor in net.tensors.items() if key not in numbers})
    renamed = rename(net.tensors)
    dropped, unexpected = rest(raw, net)
    dropped |= dict.fromkeys((net.prefix + key for key in numbers), "bookkeeping")
    if missing := [key for key in need if key not in renamed.weights]:
        raise CheckpointError(
            wanted="all tensors of a net of this family",
            got=f"a file without {some(missing)}{diagnose.in_own_names(net.tensors, rename, missing)}",
            where=raw.path,
            do="name the whole file",
        )
    unexpected |= {net.prefix + key: renamed.weights[key] for key in without if key in renamed.weights}
    facts.setdefault("origin_proof", OriginProof.LAYOUT)
    facts.setdefault("epoch", state_dicts.whole(raw.tree.get("epoch")))
    return Converted(
        weights={key: t for key, t in renamed.weights.items() if key not in without},
        branch=net.branch,
        dropped={
            net.prefix + key if key in renamed.dropped else key: rule
            for key, rule in (dropped | dict(renamed.dropped)).items()
            if not (facts.get("head") and key.startswith(used))
        },
        unexpected=unexpected,
        container=container(raw, net),
        source=Source(tensors=net.tensors, rename=rename),
        **facts,
    )


def rest(raw: RawFile, net: Net) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """({entry or key outside of the net: rule that drops it}, {key: tensor} that no rule names)."""
    dropped: dict[str, str] = {}
    unexpected: dict[str, torch.Tensor] = {}
    node: Mapping[str, object] = raw.tree
    for depth in range(len(net.entry) + 1):
        path = net.entry[:depth]
        step = net.entry[depth] if depth < len(net.entry) else None
        entries = {str(k): v for k, v in node.items() if not isinstance(v, torch.Tensor) and str(k) != step}
        _sort_entries(raw, net, entries, path, dropped, unexpected)
        if step is not None:
            for key, tensor in node.items():
                if isinstance(tensor, torch.Tensor):
                    name = ".".join((*path, str(key)))
                    if is_bookkeeping(name, tensor):
                        dropped[name] = "bookkeeping"
                    else:
                        unexpected[name] = tensor
            deeper = next(v for k, v in node.items() if str(k) == step)
            assert isinstance(deeper, Mapping)
            node = deeper
    frame = LIGHTNING in raw.tree
    parent = net.prefix.rstrip(".").rpartition(".")[0]
    for key, tensor in net.beside.items():
        copy = next((n for n in raw.nets if n.entry == net.entry and n is not net and key.startswith(n.prefix)), None)
        if copy is not None and copy.prefix:
            dropped[f"{copy.prefix}*"] = f"the other branch ({copy.branch})"
        elif BESIDE.fullmatch(key.removeprefix(f"{parent}.")) or (frame and "." in key):
            dropped[f"{key.split('.')[0]}.*" if "." in key else key] = OTHER
        else:
            unexpected[key] = tensor
    return dropped, unexpected


def _sort_entries(
    raw: RawFile,
    net: Net,
    entries: Mapping[str, object],
    path: tuple[str, ...],
    dropped: dict[str, str],
    unexpected: dict[str, torch.Tensor],
) -> None:
    branches = {n.entry: n.branch for n in raw.nets if n.entry != net.entry}
    for key, value in entries.items():
        way = (*path, key)
        name = ".".join(way)
        copies = [branch for entry, branch in branches.items() if entry[: len(way)] == way]
        found = list(walk(value, name))
        if copies:
            dropped[name] = f"the other branch ({copies[0]})"
        elif not found or all(is_bookkeeping(k, t) for k, t in found):
            dropped[name] = "bookkeeping"
        elif NO_NETS.fullmatch(key) or BESIDE.fullmatch(key):
            dropped[name] = "optimizer state" if "opt" in key else OTHER
        else:
            unexpected |= dict(found)


def container(raw: RawFile, net: Net) -> str:
    """How the file keeps the net, in words."""
    kind = "a folder with config.json" if raw.config else "a flat file"
    if net.entry:
        kind = f"{{{'.'.join(net.entry)}}}"
    if LIGHTNING in raw.tree:
        kind = "a Lightning checkpoint"
    if raw.torchscript:
        kind = "a TorchScript archive"
    return f"{kind}, names after {net.prefix!r}" if net.prefix else kind


def has_positions(net: Net) -> bool:
    """Whether a net of BEiT's has a table of relative positions or one of positions."""
    return any(key.endswith((TABLE.partition(".")[2], "pos_embed", "position_embeddings")) for key in net.tensors)


def has_class_head(net: Net) -> bool:
    """Whether there is a linear classifier on the net."""
    return any(key in net.tensors for key in state_dicts.CLASS_HEADS)
