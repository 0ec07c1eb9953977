"""iBOT: full training checkpoints of bytedance/ibot, and files of one net with its mask token or its head.

A file of the backbone alone is read here by catalogue name, by its sha256 or by `--family ibot`.

Layouts: ibot/main_ibot.py:212-215, ibot/extract_backbone_weights.py.
"""

from __future__ import annotations

import dataclasses

from evaltk.checkpoints import conversion, marks, state_dicts
from evaltk.checkpoints.families import Family, dino
from evaltk.checkpoints.rawfile import Converted, RawFile, rest_rules, strip, tensors
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.checkpoints.state_dicts import CLASS_HEADS, TRAINED_ALIKE
from evaltk.models import kind
from evaltk.types import OriginProof

REST = dino.REST | {"ibot_loss": "loss state"}
del REST["dino_loss"]


def claims(raw: RawFile) -> bool:
    """A full checkpoint with iBOT's loss or head; one net with its mask token or head for patches; or
    {state_dict: a backbone beside a projection head}, as its teacher-only files are.
    """
    if state_dicts.own(raw) or marks.owner(raw) or conversion.LIGHTNING in raw.tree:
        return False
    if "teacher" in raw.tree or "student" in raw.tree:
        return not dino.claims(raw)
    flat = state_dicts.one_net(raw.tree, "module.", "backbone.")
    nested_head = state_dicts.under(raw.tree) is not None and state_dicts.has_projection_head(flat)
    class_head = any(key in flat for key in CLASS_HEADS)
    return kind.recognise(flat) is not None and (state_dicts.is_ibot(flat) or (nested_head and not class_head))


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The chosen branch (teacher unless said otherwise) in our key names; `masked_embed` becomes `mask_token`."""
    if not any(branch in raw.tree for branch in dino.BRANCHES):
        return dataclasses.replace(state_dicts.flat_file(raw.tree, "ibot", REST), **TRAINED_ALIKE)
    branch = state_dicts.branch_of(raw, options, dino.BRANCHES)
    rules = REST | {b: "the other branch" for b in dino.BRANCHES if b != branch}
    dropped, unknown = rest_rules(raw.tree, rules, [branch])
    flat = strip(tensors(raw.tree[branch]), "module.")
    center = state_dicts.center(raw.tree.get("ibot_loss"), "center")
    weights, head, extra = state_dicts.split_head(flat, "ibot", center)
    notes: tuple[str, ...] = ()
    activation = state_dicts.settings(raw.tree).get("act_in_head", "gelu")
    if head and activation != "gelu":
        # The activation has no tensors: rebuilt with another one, the head would give wrong numbers in silence.
        notes = (f"the head has the activation {str(activation)[:20]!r}, which is not rebuilt here: head left out",)
        dropped |= {key: "head with another activation" for key in flat if key.startswith("head.")}
        head = None
    return Converted(
        weights=state_dicts.named(weights),
        branch=branch,
        head=head,
        dropped=dropped,
        unexpected=unknown | extra,
        epoch=state_dicts.whole(raw.tree.get("epoch")),
        origin_proof=OriginProof.LAYOUT,
        notes=notes,
        **TRAINED_ALIKE,
        **state_dicts.hints(raw.tree),
    )


FAMILY = Family(name="ibot", claims=claims, convert=convert)
