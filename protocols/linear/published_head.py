"""Published linear classifiers: read without executing anything, and their columns put in the order of our features.

DINO's files hold {"state_dict": {"module.linear.weight" [C, D], "module.linear.bias" [C]}}; others are plain state
dicts with the classifier under `linear.`, `head.` or `fc.`, as timm's and torchvision's are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from evaltk.checkpoints import rawfile
from evaltk.checkpoints.locate import locate
from evaltk.errors import CheckpointError, SettingsError, some
from evaltk.types import Recipe

Order = Literal["auto", "plain", "interleaved"]
NAMES = ("linear.", "head.", "fc.", "head.fc.", "classifier.", "")
ENTRIES = ("state_dict", "model")  # where a file may keep its tensors instead of at the top
# What stands between the tokens and the classifier in some nets: heads behind it are on another feature than ours.
BETWEEN = ("fc_norm.", "pre_logits.", "attn_pool.")
ORDERS = {"dino": "interleaved", "ibot": "plain", "dinov2": "plain"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearHead:
    """A classifier: weight [C, D] and bias [C], float32; `origin`: its file; `notes`: what the file left unsaid."""

    weight: Tensor
    bias: Tensor
    origin: Path
    notes: tuple[str, ...] = ()


def read(path: str | Path) -> LinearHead:
    """The linear classifier in a file (or catalogue entry that was fetched).

    Raises: CheckpointError: unreadable, no classifier in it or several, not finite, or one behind further layers: other
        tensors are beside it that are of no net.
    """
    file = locate(path)
    where, raw = file.path, rawfile.read(file)
    entry = next((name for name in ENTRIES if isinstance(raw.tree.get(name), Mapping)), None)
    flat = rawfile.strip(rawfile.tensors(raw.tree[entry] if entry else raw.tree), "module.")
    name = _name(flat, where)
    weight, bias = flat[f"{name}weight"], flat.get(f"{name}bias")
    notes = [f"head of {where.name} (sha256 {raw.sha256[:12]})"]
    others = [key for key in flat if key not in (f"{name}weight", f"{name}bias")]
    if others and not raw.nets:
        do = "fold them into the head, and save its weight and bias alone"
        got = f"others beside it: {some(others, 3)}"
        raise CheckpointError(wanted="a linear head alone, or with its whole net", got=got, where=where, do=do)
    if others:
        notes.append(f"{len(others)} other tensors of {where.name} were not used: it holds more than the head")
    if bias is None:
        notes.append(f"{where.name} has no bias: 0 taken")
        bias = torch.zeros(len(weight))
    for key, tensor in (("weight", weight), ("bias", bias)):
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            got = f"{tensor.dtype}" if not tensor.is_floating_point() else "NaN or infinity"
            do = "use another file"
            raise CheckpointError(wanted="finite float numbers", got=f"{got} in {name}{key}", where=where, do=do)
    return LinearHead(weight=weight.float().clone(), bias=bias.float().clone(), origin=where, notes=tuple(notes))


def _name(flat: Mapping[str, Tensor], where: Path) -> str:
    """What the classifier's keys begin with."""
    behind = sorted(key for key in flat if key.startswith(BETWEEN))
    if behind:
        do = "use a head on class tokens or on their concatenation with mean patches"
        raise CheckpointError(wanted="a linear head alone", got=f"one behind {behind[0]}", where=where, do=do)
    found = [n for n in NAMES if (w := flat.get(f"{n}weight")) is not None and w.ndim == 2]
    if len(found) != 1:
        there = [f"{n}weight" for n in found] or sorted(flat)[:4] or ["no tensors"]
        wanted = "one classifier: weight [C, D] and bias [C] under linear., head. or fc."
        raise CheckpointError(wanted=wanted, got=", ".join(there), where=where, do="save the head alone")
    weight, bias = flat[f"{found[0]}weight"], flat.get(f"{found[0]}bias")
    if bias is not None and tuple(bias.shape) != (len(weight),):
        got = f"{list(bias.shape)} beside a weight {list(weight.shape)}"
        raise CheckpointError(wanted=f"a bias [{len(weight)}]", got=got, where=where, do="use another file")
    return found[0]


def deinterleave(weight: Tensor) -> Tensor:
    """[C, 2 W] with columns cls_0, mean_0, cls_1, mean_1 ... -> [C, 2 W] with all of cls before all of mean.

    Source: dino/eval_linear.py:167-170, where unsqueeze, cat and reshape on the last axis interleave the two.
    """
    return torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)


def width(recipe: Recipe, embed_dim: int) -> int:
    """D of a recipe's feature."""
    return embed_dim * ((recipe.last if "cls" in recipe.tokens else 0) + ("mean" in recipe.tokens))


def match(
    head: LinearHead, recipes: tuple[Recipe, ...], *, embed_dim: int, num_classes: int, family: str, order: Order
) -> tuple[Recipe, LinearHead]:
    """(the feature a head is for, the head with its columns in that feature's order and a note that says which it was).

    Args:
        recipes: the features it may be for; of two of one width it must be said which. family: of the checkpoint.
        order: of the columns where patches are pooled; ``auto``: as the evaluation of DINO, iBOT or DINOv2 has them.

    Raises: SettingsError: another number of classes, another width (both numbers are told), an order not known.
    """
    classes, dim = head.weight.shape
    if classes != num_classes:
        do = "name the dataset that the head was trained on"
        raise SettingsError(wanted=f"a head of {num_classes} classes", got=f"{classes}", where=head.origin, do=do)
    fitting = [r for r in dict.fromkeys(recipes) if width(r, embed_dim) == dim]
    if len(fitting) != 1:
        there = ", ".join(f"{width(r, embed_dim)} ({r.text()})" for r in dict.fromkeys(recipes))
        got = f"{dim}" if not fitting else f"{dim}, which fits several"
        do = "say what the head is on with --linear.blocks and --linear.pool, or use the head of this net"
        raise SettingsError(wanted=f"a head on features of {there}", got=got, where=head.origin, do=do)
    (recipe,) = fitting
    if "mean" not in recipe.tokens:
        return recipe, replace(head, notes=(*head.notes, f"on {recipe.text()}, class tokens oldest block first"))
    known, told = order, "as --linear.head-order says"
    if order == "auto":
        known = ORDERS.get(family, "")  # type: ignore[assignment]
        told = f"as heads of {family} checkpoints are"
    if not known or (known == "interleaved" and recipe.last > 1):
        got = f"a checkpoint of family {family}" if not known else f"{recipe.last} blocks interleaved with one mean"
        do = "--linear.head-order plain ([cls ; mean]) or interleaved (cls_0, mean_0, cls_1, ...; one block only)"
        raise SettingsError(wanted="an order of the head's columns", got=got, where=head.origin, do=do)
    weight = deinterleave(head.weight) if known == "interleaved" else head.weight
    words = {"plain": "plain [cls ; mean]", "interleaved": "interleaved (cls_0, mean_0, cls_1, ...)"}[known]
    return recipe, replace(head, weight=weight, notes=(*head.notes, f"on {recipe.text()}, columns {words}, {told}"))
