"""MSN: checkpoints of facebookresearch/msn; the target encoder is what is evaluated.

Layout: PROTOCOLS C.4 item 4; msn/src/msn_train.py:284-295. The encoder's `fc.*` is the projector, not a class head.
"""

from __future__ import annotations

import torch

from evaltk.families import dino
from evaltk.rawfile import Converted, RawFile, ReadOptions, rest_rules, strip, tensors
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, HeadWeights

BRANCHES = ("target_encoder", "encoder")
REST = {"opt": "optimizer state"} | dict.fromkeys(
    ("epoch", "loss", "batch_size", "world_size", "lr", "temperature", "scaler", "amp"), "bookkeeping"
)


def claims(raw: RawFile) -> bool:
    """An encoder, a target encoder and prototypes side by side."""
    return "evaltk_format" not in raw.tree and "target_encoder" in raw.tree


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The target encoder (unless `branch` says encoder) without its projector, which becomes the head."""
    branch = dino.layout_branch(raw, options, BRANCHES)
    rules = REST | {b: "the other branch" for b in BRANCHES if b != branch}
    dropped, unknown = rest_rules(raw.tree, rules, [branch, "prototypes"])
    flat = strip(tensors(raw.tree[branch]), "module.", "encoder.")
    weights = {key: tensor for key, tensor in flat.items() if not key.startswith("fc.")}
    head: dict[str, torch.Tensor] = {k.removeprefix("fc."): t for k, t in flat.items() if k.startswith("fc.")}
    prototypes = raw.tree.get("prototypes")
    if isinstance(prototypes, torch.Tensor):
        head["prototypes.weight"] = prototypes
    complete = "fc3.weight" in head and "prototypes.weight" in head
    return Converted(
        weights=weights,
        branch=branch,
        head=HeadWeights(kind="msn", tensors=head) if complete else None,
        dropped=dropped | ({} if complete else dict.fromkeys(head, "incomplete projector")),
        unexpected=unknown,
        norm_eps=dino.NORM_EPS,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        epoch=dino._int(raw.tree.get("epoch")),
    )
