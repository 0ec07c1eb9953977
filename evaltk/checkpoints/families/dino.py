"""DINO: the backbone-only files and the full training checkpoints of facebookresearch/dino; ViT, ResNet-50, XCiT.

Layouts: dino/main_dino.py:278-287 (full), dino/utils.py:71-109 (what its loader strips).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from evaltk.checkpoints import layout
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.rawfile import Converted, RawFile, ReadOptions, rest_rules, strip, tensors
from evaltk.errors import CheckpointError
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, HeadWeights, OriginProof

NORM_EPS = 1e-6
BRANCHES = ("teacher", "student")
REST = {
    "optimizer": "optimizer state",
    "fp16_scaler": "loss scaler",
    "epoch": "bookkeeping",
    "args": "bookkeeping",
    "dino_loss": "loss state",
}
HEAD_MLP, HEAD_LAST, HEAD_LAST2 = "head.mlp.", "head.last_layer.", "head.last_layer2."
CLASS_HEADS = ("head.weight", "head.bias", "fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias")


def claims(raw: RawFile) -> bool:
    """A flat backbone without a class head, or teacher and student of DINO's training script."""
    if raw.metadata.get("evaltk") or "evaltk_format" in raw.tree:
        return False
    if "teacher" in raw.tree or "student" in raw.tree:
        keys = {k for branch in BRANCHES for k in strip(tensors(raw.tree.get(branch)), "module.")}
        return "ibot_loss" not in raw.tree and not any(k.startswith(HEAD_LAST2) for k in keys)
    flat = strip(tensors(raw.tree), "module.", "backbone.")
    patches = "masked_embed" in flat or any(k.startswith(HEAD_LAST2) for k in flat)
    return layout.kind_of(flat) is not None and not patches and not any(k in flat for k in CLASS_HEADS)


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The chosen branch (teacher unless said otherwise) in our key names."""
    if not any(branch in raw.tree for branch in BRANCHES):
        return flat_file(raw.tree, "dino", REST)
    branch = layout_branch(raw, options, BRANCHES)
    rules = REST | {b: "the other branch" for b in BRANCHES if b != branch}
    dropped, unknown = rest_rules(raw.tree, rules, [branch])
    flat = strip(tensors(raw.tree[branch]), "module.")
    weights, head, extra = split_head(flat, "dino", center(raw.tree.get("dino_loss"), "center"))
    return _converted(
        weights,
        branch=branch,
        head=head,
        dropped=dropped,
        unexpected=unknown | extra,
        epoch=whole(raw.tree.get("epoch")),
        origin_proof=OriginProof.LAYOUT,
        **hints(raw.tree),
    )


def flat_file(tree: Mapping[str, object], kind: str, rest: Mapping[str, str], under: str | None = None) -> Converted:
    """A file of one net: its tensors at the top, or in the entry `under`; a class head is dropped by name.

    Args:
        kind: of the projection head, ``dino`` or ``ibot``, where the file has one. rest: rules for other entries.
    """
    inner = tensors(tree) if under is None else tensors(tree.get(under))
    dropped, unknown = rest_rules(tree, rest, [under] if under else inner)
    flat = strip(inner, "module.")
    weights, head, extra = split_head(flat, kind, None)
    weights |= {k: t for k, t in extra.items() if k in CLASS_HEADS}
    dropped |= {k: "class head" for k in weights if k in CLASS_HEADS}
    note = "a flat file does not tell who trained it: ImageNet mean and std and eps 1e-6 taken, as {} have"
    return _converted(
        {k: t for k, t in weights.items() if k not in CLASS_HEADS},
        branch="backbone",
        head=head,
        dropped=dropped,
        unexpected=unknown | {k: t for k, t in extra.items() if k not in CLASS_HEADS},
        notes=(note.format({"dino": "DINO's", "ibot": "iBOT's"}[kind]),),
    )


def layout_branch(raw: RawFile, options: ReadOptions, branches: tuple[str, ...]) -> str:
    """The branch asked for, or the first that the file has. Raises: CheckpointError: it has no such branch."""
    there = [b for b in branches if isinstance(raw.tree.get(b), Mapping)]
    wanted = options.branch or (there[0] if there else branches[0])
    if wanted not in there:
        known = f"a branch of this file ({', '.join(there) or 'it has none'})"
        do = "mend --branch" if there else "leave --family out, or name another file"
        raise CheckpointError(wanted=known, got=repr(wanted), where=raw.path, do=do)
    return wanted


def split_head(
    flat: Mapping[str, torch.Tensor], kind: str, centre: torch.Tensor | None
) -> tuple[dict, HeadWeights | None, dict]:
    """Part a branch into (backbone tensors, projection head, tensors under `head.` that no head has)."""
    weights = strip({k: t for k, t in flat.items() if not k.startswith("head.")}, "backbone.")
    found: dict[str, torch.Tensor] = {}
    extra: dict[str, torch.Tensor] = {}
    for key, tensor in flat.items():
        if not key.startswith("head."):
            continue
        name = ""
        if key.startswith(HEAD_MLP):
            name = key.removeprefix("head.")
        elif key.startswith(HEAD_LAST):
            name = "prototypes." + weight_norm_name(key.removeprefix(HEAD_LAST))
        elif kind == "ibot" and key.startswith(HEAD_LAST2):
            name = "patch_prototypes." + weight_norm_name(key.removeprefix(HEAD_LAST2))
        if name and name not in found:  # twice: weight_norm's old and new names side by side
            found[name] = tensor
        else:
            extra[key] = tensor
    return weights, HeadWeights(kind=kind, tensors=found, center=centre) if found else None, extra


def weight_norm_name(name: str) -> str:
    """torch's newer parametrization names back to weight_g and weight_v."""
    return {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}.get(
        name, name
    )


def center(loss: object, key: str) -> torch.Tensor | None:
    """The centre of a saved loss module, flattened to [K], or None."""
    found = tensors(loss).get(key)
    return None if found is None else found.flatten()


def hints(tree: Mapping[str, object]) -> dict[str, Any]:
    """What the training's `args`, a Namespace or a dict, say of the net: `hint_arch` and `hint_patch`."""
    args = settings(tree)
    arch = args.get("arch")
    return {"hint_arch": arch if isinstance(arch, str) else None, "hint_patch": whole(args.get("patch_size"))}


def settings(tree: Mapping[str, object]) -> Mapping[str, object]:
    """The training's `args`, {} where the file has none."""
    args = tree.get("args")
    return args if isinstance(args, Mapping) else getattr(args, "__dict__", {})


def whole(value: object) -> int | None:
    """`value` where it is a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _converted(weights: dict[str, torch.Tensor], **rest: Any) -> Converted:
    # DINOv2's name for what timm calls reg_token.
    named = {("reg_token" if key == "register_tokens" else key): tensor for key, tensor in weights.items()}
    return Converted(weights=named, norm_eps=NORM_EPS, mean=IMAGENET_MEAN, std=IMAGENET_STD, **rest)


FAMILY = Family(name="dino", claims=claims, convert=convert)
