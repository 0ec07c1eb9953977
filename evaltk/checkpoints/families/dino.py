"""DINO: full training checkpoints of facebookresearch/dino, and its backbone files where something identifies them.

A file of the backbone alone has nothing of DINO in it: it is read here by catalogue name, by its sha256, by
`--family dino`, or where it still has DINO's projection head. ViT, ResNet-50 and XCiT.

Layouts: dino/main_dino.py:278-287 (full), dino/utils.py:71-109 (what its loader strips).
"""

from __future__ import annotations

import dataclasses

from evaltk.checkpoints import conversion, marks, state_dicts
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.rawfile import Converted, RawFile, rest_rules, strip, tensors
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.checkpoints.state_dicts import CLASS_HEADS, HEAD_LAST2, TRAINED_ALIKE
from evaltk.models import kind
from evaltk.types import OriginProof

BRANCHES = ("teacher", "student")
REST = {
    "optimizer": "optimizer state",
    "fp16_scaler": "loss scaler",
    "epoch": "bookkeeping",
    "args": "bookkeeping",
    "dino_loss": "loss state",
}


def claims(raw: RawFile) -> bool:
    """Teacher and student of DINO's training script, or a backbone beside DINO's head, at the top of the file."""
    if state_dicts.own(raw) or marks.owner(raw) or conversion.LIGHTNING in raw.tree:
        return False
    if "teacher" in raw.tree or "student" in raw.tree:
        keys = {k for branch in BRANCHES for k in strip(tensors(raw.tree.get(branch)), "module.")}
        return "ibot_loss" not in raw.tree and not any(k.startswith(HEAD_LAST2) for k in keys)
    if state_dicts.under(raw.tree):
        return False
    flat = state_dicts.one_net(raw.tree, "module.", "backbone.")
    return (
        kind.recognise(flat) is not None
        and state_dicts.has_projection_head(flat)
        and not state_dicts.is_ibot(flat)
        and not any(key in flat for key in CLASS_HEADS)
    )


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The chosen branch (teacher unless said otherwise) in our key names."""
    if not any(branch in raw.tree for branch in BRANCHES):
        return dataclasses.replace(state_dicts.flat_file(raw.tree, "dino", REST), **TRAINED_ALIKE)
    branch = state_dicts.branch_of(raw, options, BRANCHES)
    rules = REST | {b: "the other branch" for b in BRANCHES if b != branch}
    dropped, unknown = rest_rules(raw.tree, rules, [branch])
    flat = strip(tensors(raw.tree[branch]), "module.")
    center = state_dicts.center(raw.tree.get("dino_loss"), "center")
    weights, head, extra = state_dicts.split_head(flat, "dino", center)
    return Converted(
        weights=state_dicts.named(weights),
        branch=branch,
        head=head,
        dropped=dropped,
        unexpected=unknown | extra,
        epoch=state_dicts.whole(raw.tree.get("epoch")),
        origin_proof=OriginProof.LAYOUT,
        **TRAINED_ALIKE,
        **state_dicts.hints(raw.tree),
    )


FAMILY = Family(name="dino", claims=claims, convert=convert)
