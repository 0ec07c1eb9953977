"""DINO: the backbone-only files and the full training checkpoints of facebookresearch/dino; ViT, ResNet-50, XCiT.

Layouts: PROTOCOLS C.4 items 1 and 2; dino/main_dino.py:278-287 (full), dino/utils.py:71-109 (what its loader strips).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from evaltk.models import layout
from evaltk.rawfile import Converted, RawFile, ReadOptions, rest_rules, strip, tensors
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, HeadWeights

NORM_EPS = 1e-6
BRANCHES = ("teacher", "student")
REST = {
    "optimizer": "optimizer state",
    "fp16_scaler": "loss scaler",
    "epoch": "bookkeeping",
    "args": "bookkeeping",
    "dino_loss": "loss state",
}
HEAD_MLP, HEAD_LAST = "head.mlp.", "head.last_layer."


def claims(raw: RawFile) -> bool:
    """A flat backbone without a class head, or teacher and student of DINO's training script."""
    if raw.metadata.get("evaltk") or "evaltk_format" in raw.tree:
        return False
    if "teacher" in raw.tree or "student" in raw.tree:
        keys = {k for branch in BRANCHES for k in strip(tensors(raw.tree.get(branch)), "module.")}
        return "ibot_loss" not in raw.tree and not any(k.startswith("head.last_layer2.") for k in keys)
    flat = strip(tensors(raw.tree), "module.", "backbone.")
    classifier = any(k in flat for k in ("head.weight", "fc.weight", "head.fc.weight"))
    return layout.kind_of(flat) is not None and not classifier and "masked_embed" not in flat


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The chosen branch (teacher unless said otherwise) in our key names."""
    full = any(branch in raw.tree for branch in BRANCHES)
    if not full:
        weights = strip(tensors(raw.tree), "module.", "backbone.")
        note = "a flat file does not tell who trained it: ImageNet mean and std and eps 1e-6 taken, as DINO's have"
        return _converted(weights, branch="backbone", head=None, notes=(note,))
    branch = layout_branch(raw, options, BRANCHES)
    rules = REST | {b: "the other branch" for b in BRANCHES if b != branch}
    dropped, unknown = rest_rules(raw.tree, rules, [branch])
    flat = strip(tensors(raw.tree[branch]), "module.")
    weights, head, extra = split_head(flat, "dino", center(raw.tree.get("dino_loss"), "center"))
    args = getattr(raw.tree.get("args"), "__dict__", {})
    return _converted(
        weights,
        branch=branch,
        head=head,
        dropped=dropped,
        unexpected=unknown | extra,
        hint_arch=_text(args.get("arch")),
        hint_patch=args.get("patch_size"),
        epoch=_int(raw.tree.get("epoch")),
    )


def layout_branch(raw: RawFile, options: ReadOptions, branches: tuple[str, ...]) -> str:
    """The branch asked for, or the first that the file has. Raises: CheckpointError: it has no such branch."""
    from evaltk.errors import CheckpointError

    there = [b for b in branches if b in raw.tree]
    wanted = options.branch or there[0]
    if wanted not in there:
        raise CheckpointError(
            wanted=f"a branch of this file ({', '.join(there)})", got=repr(wanted), where=raw.path, do="mend --branch"
        )
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
        if key.startswith(HEAD_MLP):
            found[key.removeprefix("head.")] = tensor
        elif key.startswith(HEAD_LAST):
            found["prototypes." + weight_norm_name(key.removeprefix(HEAD_LAST))] = tensor
        elif kind == "ibot" and key.startswith("head.last_layer2."):
            found["patch_prototypes." + weight_norm_name(key.removeprefix("head.last_layer2."))] = tensor
        else:
            extra[key] = tensor
    return weights, HeadWeights(kind=kind, tensors=found, center=centre) if found else None, extra


def weight_norm_name(name: str) -> str:
    """torch's newer parametrization names back to weight_g and weight_v (PROTOCOLS C.5)."""
    return {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}.get(
        name, name
    )


def center(loss: object, key: str) -> torch.Tensor | None:
    """The centre of a saved loss module, flattened to [K], or None."""
    found = tensors(loss).get(key)
    return None if found is None else found.flatten()


def _converted(weights: dict[str, torch.Tensor], **rest: object) -> Converted:
    fixed = {"norm_eps": NORM_EPS, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return Converted(weights=weights, **(fixed | rest))  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None
