"""What an unclaimed file holds, and which layout that we know it resembles most."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from evaltk.checkpoints import layout
from evaltk.checkpoints.rawfile import pattern, walk
from evaltk.errors import some
from evaltk.types import Arch

# Any ViT: only its names are compared.
NAMES = Arch(name="", patch_size=16, embed_dim=384, depth=1, num_heads=6, mlp_ratio=4.0, img_size=224, norm_eps=1e-6)
KINDS = 12  # of keys that a description names
PLACES = 32  # prefixes that are tried
RESEMBLES = 0.3  # share of a ViT's kinds of key from which on it is worth naming


def seen(tree: Mapping[str, object]) -> str:
    """The tree in a line: its entries that are no tensors, and its kinds of key with a shape each."""
    entries = [repr(key)[:40] for key, value in tree.items() if not isinstance(value, torch.Tensor)]
    kinds: dict[str, tuple[int, ...]] = {}
    total = 0
    for key, tensor in walk(tree):
        kinds.setdefault(pattern(key), tuple(tensor.shape))
        total += 1
    told = some([f"{key[:80]} {shape}" for key, shape in kinds.items()], KINDS) or "none"
    return (f"entries {some(entries, 8)}; " if entries else "") + f"{total} tensors ({told})"


def nearest(tree: Mapping[str, object]) -> str:
    """What to do with the tree: the layout it resembles most, and what it lacks of that."""
    vit = {pattern(key) for key in layout.vit_shapes(NAMES)}
    shared, place = _best(tree, vit)
    if any(key.endswith("linear.weight") for key, _ in walk(tree)) and not shared:
        return "this is a linear classifier on top of features, not a net: name the net's own file"
    if len(shared) < RESEMBLES * len(vit):
        return "nothing in it resembles the nets known here (ViT in DINO's or timm's names, ResNet, XCiT)"
    lacking = sorted(vit - shared)
    if not lacking:
        return f"a whole ViT lies under {place!r}: save that dict alone by torch.save"
    under = f" under {place!r}" if place else ""
    return (
        f"nearest is a flat ViT in DINO's or timm's names ({len(shared)} of {len(vit)} kinds of key shared{under}; "
        f"lacking {', '.join(lacking)}): rename the file's keys to those"
    )


def _best(tree: Mapping[str, object], kinds: set[str]) -> tuple[set[str], str]:
    """(the kinds shared, the prefix they share it under) of the prefix that shares most; prefixes end in a dot."""
    keys = [pattern(key) for key, _ in walk(tree)]
    prefixes = {""} | {m.group() for key in keys if (m := re.match(r"(.*\.)?(?=blocks\.N\.|cls_token$)", key))}
    found = {p: kinds & {key.removeprefix(p) for key in keys if key.startswith(p)} for p in sorted(prefixes)[:PLACES]}
    best = max(found, key=lambda p: len(found[p]))
    return found[best], best.removesuffix(".")
