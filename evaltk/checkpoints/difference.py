"""How the tensors of a file differ from those of a net, in words: missing, left over, of another shape."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import torch

from evaltk.checkpoints.layout import VIT_KEYS
from evaltk.errors import CheckpointError, some

Tensors = Mapping[str, torch.Tensor]

SHOWN = 6  # missing names for which the nearest is looked up
DO = "name the right --branch or --family, or save the net's own state_dict"


def check(weights: Tensors, shapes: Mapping[str, tuple[int, ...]], extra: Tensors, path: Path) -> None:
    """Every expected tensor is there in its shape, and no other. `extra`: tensors that no rule of the family names.

    Raises: CheckpointError: listing what is missing, left over and of another shape, with the nearest names.
    """
    missing = [key for key in shapes if key not in weights]
    left = {key: tuple(t.shape) for key, t in weights.items() if key not in shapes}
    left |= {key: tuple(t.shape) for key, t in extra.items()}
    wrong = [
        f"{key} {tuple(weights[key].shape)} for {shape}"
        for key, shape in shapes.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    if not (missing or left or wrong):
        return
    near = _near(missing, left)
    parts = {
        "missing": [f"{key} {shapes[key]}{near.get(key, '')}" for key in missing],
        "unexpected": [f"{key} {shape}" for key, shape in left.items()],
        "other shapes:": wrong,
    }
    got = "; ".join(f"{what} {some(names)}" for what, names in parts.items() if names)
    raise CheckpointError(wanted=f"exactly the {len(shapes)} tensors of the net", got=got, where=path, do=DO)


def refuse(weights: Tensors, extra: Tensors, path: Path) -> NoReturn:
    """Raises: CheckpointError: the tensors of a branch belong to no net that is known; says what a ViT would need."""
    there = [*weights, *extra]
    near = _near([key for key in VIT_KEYS if key not in weights], there)
    lacking = ", ".join(f"{key}{hint}" for key, hint in near.items())
    got = f"{len(there)} tensors ({some(there)}), as a ViT lacking {lacking}"
    raise CheckpointError(wanted="a ViT, ResNet or XCiT", got=got, where=path, do=DO)


def _near(missing: list[str], there: Iterable[str]) -> dict[str, str]:
    """What to add to each missing name that is shown: the nearest name there is, if any is near."""
    options = list(there)
    found = {key: difflib.get_close_matches(key, options, n=1, cutoff=0.6) for key in missing[:SHOWN]}
    return {key: f" (nearest there: {near[0]})" if near else "" for key, near in found.items()}
