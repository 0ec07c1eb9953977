"""What renaming gives, and the steps that all of it is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from evaltk.errors import CheckpointError

Tensors = Mapping[str, torch.Tensor]
Rules = Sequence[tuple[str, str]]  # (regular expression of whole names, what becomes of them)


@dataclass(frozen=True, slots=True)
class Renamed:
    """Weights under timm's names, and {original name: the rule that dropped it}."""

    weights: Mapping[str, torch.Tensor]
    dropped: Mapping[str, str] = field(default_factory=dict)


Rename = Callable[[Tensors], Renamed]


def drop(tensors: Tensors, rules: Rules) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors that no rule names, {name: rule} of the others); the first rule that fits counts."""
    kept: dict[str, torch.Tensor] = {}
    dropped: dict[str, str] = {}
    for key, tensor in tensors.items():
        rule = next((rule for pattern, rule in rules if re.fullmatch(pattern, key)), None)
        if rule is None:
            kept[key] = tensor
        else:
            dropped[key] = rule
    return kept, dropped


def substitute(tensors: Tensors, substitutions: Rules) -> dict[str, torch.Tensor]:
    """Apply every substitution (pattern, replacement) to every name, in the order given.

    Raises: CheckpointError: two names become one.
    """
    out: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        name = key
        for pattern, replacement in substitutions:
            name = re.sub(pattern, replacement, name)
        if name in out:
            do = "save one net a file"
            raise CheckpointError(wanted="one tensor a name", got=f"two called {name!r}", where=key, do=do)
        out[name] = tensor
    return out


def fuse(tensors: Tensors, parts: Sequence[str], whole: str, *, zeros: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """Join the tensors `PREFIX.part.weight` (and `.bias`) of a layer into `PREFIX.whole.weight`, along rows.

    Parts are joined only where all of them are there and alike but for their rows; what is not stays under its name, so
    that it is reported.

    Args: zeros: parts that have no bias by design; theirs is 0 where the others have one.
    """
    out = dict(tensors)
    first = parts[0]
    for key in list(tensors):
        match = re.fullmatch(rf"(.*)\.{re.escape(first)}\.(weight|bias)", key)
        if not match:
            continue
        prefix, kind = match.groups()
        names = [f"{prefix}.{part}.{kind}" for part in parts]
        found = [out.get(name) for name in names]
        if kind == "bias":
            found = [
                torch.zeros_like(tensors[key]) if t is None and part in zeros else t
                for t, part in zip(found, parts, strict=True)
            ]
        whole_ones = [t for t in found if t is not None]
        if len(whole_ones) < len(parts) or any(t.shape[1:] != whole_ones[0].shape[1:] for t in whole_ones):
            continue
        if any(t.shape != whole_ones[0].shape for t in whole_ones):
            continue
        for name in names:
            out.pop(name, None)
        out[f"{prefix}.{whole}.{kind}"] = torch.cat(whole_ones)
    return out
