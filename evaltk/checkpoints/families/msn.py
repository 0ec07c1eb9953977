"""MSN: checkpoints of facebookresearch/msn; the target encoder is what is evaluated.

Layout: msn/src/msn_train.py:284-295. The encoder's `fc.*` is the projector, not a class head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from evaltk.checkpoints import marks, state_dicts
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.rawfile import Converted, RawFile, rest_rules, strip, tensors
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import HeadWeights, OriginProof

BRANCHES = ("target_encoder", "encoder")
PROJECTOR = re.compile(r"fc\.(fc|bn)\d\.")
REST = {"opt": "optimizer state"} | dict.fromkeys(
    ("epoch", "loss", "batch_size", "world_size", "lr", "temperature", "scaler", "amp"), "bookkeeping"
)


def claims(raw: RawFile) -> bool:
    """An encoder, a target encoder and prototypes side by side."""
    there = isinstance(raw.tree.get("target_encoder"), Mapping)
    return there and "evaltk_format" not in raw.tree and marks.owner(raw) is None


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The target encoder (unless `branch` says encoder) without its projector, which becomes the head."""
    branch = state_dicts.branch_of(raw, options, BRANCHES)
    rules = REST | {b: "the other branch" for b in BRANCHES if b != branch}
    prototypes = raw.tree.get("prototypes")
    taken = [branch, "prototypes"] if isinstance(prototypes, torch.Tensor) else [branch]
    dropped, unknown = rest_rules(raw.tree, rules, taken)
    flat = strip(tensors(raw.tree[branch]), "module.", "encoder.")
    projector = {key.removeprefix("fc."): t for key, t in flat.items() if PROJECTOR.match(key)}
    head = None
    if projector and isinstance(prototypes, torch.Tensor):
        head = HeadWeights(kind="msn", tensors=projector | {"prototypes.weight": prototypes})
    elif projector:
        dropped |= {f"fc.{key}": "projector without prototypes" for key in projector}
    elif "prototypes" in taken:
        dropped |= {"prototypes": "prototypes without a projector"}
    return Converted(
        weights={key: tensor for key, tensor in flat.items() if not PROJECTOR.match(key)},
        branch=branch,
        head=head,
        dropped=dropped,
        unexpected=unknown,
        epoch=state_dicts.whole(raw.tree.get("epoch")),
        origin_proof=OriginProof.LAYOUT,
        **state_dicts.TRAINED_ALIKE,
    )


FAMILY = Family(name="msn", claims=claims, convert=convert)
