"""iBOT: the teacher-only files and the full training checkpoints of bytedance/ibot.

Layouts: ibot/main_ibot.py:212-215, ibot/extract_backbone_weights.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from evaltk.checkpoints import layout
from evaltk.checkpoints.families import Family, dino
from evaltk.checkpoints.rawfile import Converted, RawFile, ReadOptions, rest_rules, strip, tensors
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, OriginProof

REST = dino.REST | {"ibot_loss": "loss state"}
del REST["dino_loss"]


def claims(raw: RawFile) -> bool:
    """{state_dict: backbone}, a flat file with a mask token or iBOT's head, or a full one with its loss or head."""
    if raw.metadata.get("evaltk") or "evaltk_format" in raw.tree:
        return False
    if "teacher" in raw.tree or "student" in raw.tree:
        return not dino.claims(raw)
    under = _under(raw.tree)
    flat = strip(tensors(raw.tree if under is None else raw.tree[under]), "module.", "backbone.")
    ours = "masked_embed" in flat or any(k.startswith(dino.HEAD_LAST2) for k in flat)
    nested = under is not None and not any(k in flat for k in dino.CLASS_HEADS)
    return layout.kind_of(flat) is not None and (ours or nested)


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The chosen branch (teacher unless said otherwise) in our key names; `masked_embed` becomes `mask_token`."""
    if not any(branch in raw.tree for branch in dino.BRANCHES):
        found = dino.flat_file(raw.tree, "ibot", REST, _under(raw.tree))
        return dataclasses.replace(found, weights=_mask(found.weights))
    branch = dino.layout_branch(raw, options, dino.BRANCHES)
    rules = REST | {b: "the other branch" for b in dino.BRANCHES if b != branch}
    dropped, unknown = rest_rules(raw.tree, rules, [branch])
    flat = strip(tensors(raw.tree[branch]), "module.")
    weights, head, extra = dino.split_head(flat, "ibot", dino.center(raw.tree.get("ibot_loss"), "center"))
    notes: tuple[str, ...] = ()
    act = dino.settings(raw.tree).get("act_in_head", "gelu")
    if head and act != "gelu":
        # The activation has no tensors: rebuilt with another one, the head would give wrong numbers in silence.
        notes = (f"the head has the activation {str(act)[:20]!r}, which is not rebuilt here: head left out",)
        dropped |= {key: "head with another activation" for key in flat if key.startswith("head.")}
        head = None
    return Converted(
        weights=_mask(weights),
        branch=branch,
        head=head,
        dropped=dropped,
        unexpected=unknown | extra,
        epoch=dino.whole(raw.tree.get("epoch")),
        origin_proof=OriginProof.LAYOUT,
        notes=notes,
        norm_eps=dino.NORM_EPS,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        **dino.hints(raw.tree),
    )


def _under(tree: Mapping[str, object]) -> str | None:
    return "state_dict" if "state_dict" in tree else None


def _mask(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {("mask_token" if key == "masked_embed" else key): tensor for key, tensor in weights.items()}


FAMILY = Family(name="ibot", claims=claims, convert=convert)
