"""What families of state dicts share: the parts of a branch, class and projection heads, and what `args` say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from evaltk.checkpoints.rawfile import Converted, RawFile, rest_rules, strip, tensors
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import CheckpointError
from evaltk.models.vit_layout import STANDARD_HEADS
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, HeadWeights

# What the code of DINO, iBOT and MSN fixes for all of its nets.
TRAINED_ALIKE: dict[str, Any] = {
    "norm_eps": 1e-6,
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "heads_of_width": STANDARD_HEADS,
    "position": "dino",
}
HEAD_MLP, HEAD_LAST, HEAD_LAST2 = "head.mlp.", "head.last_layer.", "head.last_layer2."
CLASS_HEADS = ("head.weight", "head.bias", "fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias")


def own(raw: RawFile) -> bool:
    """Whether the file has the mark of the project's own, and so belongs to no other family."""
    return "evaltk" in raw.metadata or "evaltk_format" in raw.tree


def under(tree: Mapping[str, object]) -> str | None:
    """The entry in which a file of one net keeps its tensors: ``state_dict``, or None for the top."""
    return "state_dict" if "state_dict" in tree else None


def one_net(tree: Mapping[str, object], *prefixes: str) -> dict[str, torch.Tensor]:
    """The tensors of a file of one net, without `prefixes`."""
    entry = under(tree)
    return strip(tensors(tree if entry is None else tree[entry]), *prefixes)


def has_projection_head(flat: Mapping[str, torch.Tensor]) -> bool:
    """Whether there is a head as DINO's and iBOT's code names it."""
    return any(key.startswith((HEAD_MLP, HEAD_LAST, HEAD_LAST2)) for key in flat)


def is_ibot(flat: Mapping[str, torch.Tensor]) -> bool:
    """Whether there are tensors that only iBOT has: its mask token, or a head for patches."""
    return "masked_embed" in flat or any(key.startswith(HEAD_LAST2) for key in flat)


def flat_file(tree: Mapping[str, object], kind: str, rest: Mapping[str, str]) -> Converted:
    """A file of one net, at the top or in the entry `state_dict`; a class head is dropped by name.

    Nothing is fixed that the tensors do not tell.

    Args:
        kind: of the projection head, ``dino`` or ``ibot``, where the file has one. rest: rules for other entries.
    """
    entry = under(tree)
    inner = tensors(tree if entry is None else tree[entry])
    dropped, unknown = rest_rules(tree, rest, [entry] if entry else inner)
    weights, head, extra = split_head(strip(inner, "module."), kind, None)
    weights |= {k: t for k, t in extra.items() if k in CLASS_HEADS}
    dropped |= {k: "class head" for k in weights if k in CLASS_HEADS}
    return Converted(
        weights=named({k: t for k, t in weights.items() if k not in CLASS_HEADS}),
        branch="backbone",
        head=head,
        dropped=dropped,
        unexpected=unknown | {k: t for k, t in extra.items() if k not in CLASS_HEADS},
    )


def branch_of(raw: RawFile, options: ReadOptions, branches: tuple[str, ...]) -> str:
    """The branch asked for, or the first that the file has. Raises: CheckpointError: it has no such branch."""
    present = [b for b in branches if isinstance(raw.tree.get(b), Mapping)]
    wanted = options.branch or (present[0] if present else branches[0])
    if wanted not in present:
        choice = f"a branch of this file ({', '.join(present) or 'it has none'})"
        do = f"--branch {present[0]}" if present else "leave --family out, or name another file"
        raise CheckpointError(wanted=choice, got=repr(wanted), where=raw.path, do=do)
    return wanted


def split_head(
    flat: Mapping[str, torch.Tensor], kind: str, centre: torch.Tensor | None
) -> tuple[dict, HeadWeights | None, dict]:
    """Part a branch into (backbone tensors, projection head, tensors under `head.` that no head has)."""
    flat = {_current(key): tensor for key, tensor in flat.items()}
    weights = strip({k: t for k, t in flat.items() if not k.startswith("head.")}, "backbone.")
    head: dict[str, torch.Tensor] = {}
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
        if name and name not in head:  # twice: weight_norm's old and new names side by side
            head[name] = tensor
        else:
            extra[key] = tensor
    return weights, HeadWeights(kind=kind, tensors=head, center=centre) if head else None, extra


def _current(key: str) -> str:
    """Today's name of a tensor of the head as DINO's first release called it."""
    return key.replace("head.projection_head.", HEAD_MLP, 1).replace("head.prototypes.", HEAD_LAST, 1)


def weight_norm_name(name: str) -> str:
    """torch's newer parametrization names back to weight_g and weight_v."""
    return {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}.get(
        name, name
    )


def center(loss: object, key: str) -> torch.Tensor | None:
    """The centre of a saved loss module, flattened to [K], or None."""
    value = tensors(loss).get(key)
    return None if value is None else value.flatten()


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


def named(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone's tensors in our names: DINOv2's registers as timm calls them, iBOT's mask token."""
    ours = {"register_tokens": "reg_token", "masked_embed": "mask_token"}
    return {ours.get(key, key): tensor for key, tensor in weights.items()}
