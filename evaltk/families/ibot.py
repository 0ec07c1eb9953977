"""iBOT: the teacher-only files and the full training checkpoints of bytedance/ibot.

Layouts: PROTOCOLS C.4 item 3; ibot/main_ibot.py:212-215, ibot/extract_backbone_weights.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from evaltk.families import dino
from evaltk.rawfile import Converted, RawFile, ReadOptions, rest_rules, strip, tensors
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD

REST = dino.REST | {"ibot_loss": "loss state"}
del REST["dino_loss"]


def claims(raw: RawFile) -> bool:
    """{state_dict: backbone}, a flat backbone with a mask token, or a full checkpoint with iBOT's loss or head."""
    if raw.metadata.get("evaltk") or "evaltk_format" in raw.tree:
        return False
    if "teacher" in raw.tree or "student" in raw.tree:
        return not dino.claims(raw)
    flat = strip(tensors(_flat(raw.tree)), "module.", "backbone.")
    return "blocks.0.attn.qkv.weight" in flat and ("state_dict" in raw.tree or "masked_embed" in flat)


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The chosen branch (teacher unless said otherwise) in our key names; `masked_embed` becomes `mask_token`."""
    fixed: dict[str, Any] = {"norm_eps": dino.NORM_EPS, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if not any(branch in raw.tree for branch in dino.BRANCHES):
        dropped, unknown = rest_rules(raw.tree, REST, ["state_dict", *tensors(raw.tree)])
        flat = strip(tensors(_flat(raw.tree)), "module.")
        weights, head, extra = dino.split_head(flat, "ibot", None)
        return Converted(
            weights=_mask(weights), branch="backbone", head=head, dropped=dropped, unexpected=unknown | extra, **fixed
        )
    branch = dino.layout_branch(raw, options, dino.BRANCHES)
    rules = REST | {b: "the other branch" for b in dino.BRANCHES if b != branch}
    dropped, unknown = rest_rules(raw.tree, rules, [branch])
    flat = strip(tensors(raw.tree[branch]), "module.")
    weights, head, extra = dino.split_head(flat, "ibot", dino.center(raw.tree.get("ibot_loss"), "center"))
    args = getattr(raw.tree.get("args"), "__dict__", {})
    return Converted(
        weights=_mask(weights),
        branch=branch,
        head=head,
        dropped=dropped,
        unexpected=unknown | extra,
        hint_arch=args.get("arch"),
        hint_patch=args.get("patch_size"),
        epoch=dino._int(raw.tree.get("epoch")),
        **fixed,
    )


def _flat(tree: Mapping[str, object]) -> object:
    return tree.get("state_dict", tree)


def _mask(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {("mask_token" if key == "masked_embed" else key): tensor for key, tensor in weights.items()}
