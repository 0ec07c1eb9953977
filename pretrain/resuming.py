"""What a checkpoint that is resumed must hold: loading weights and an optimizer checks little of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evaltk import safe_json
from evaltk.errors import CheckpointError
from pretrain.state import Position, State

CHANGING = ("params", "lr", "weight_decay")  # of an optimizer's group; every step sets the last two
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # that AdamW keeps of a weight


def recipe_in(tree: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The recipe that a checkpoint's tree states. Raises: CheckpointError: none that can be read."""
    try:
        found = safe_json.parse(tree["config"])["recipe"]
        if not isinstance(found, Mapping):
            raise TypeError(type(found).__name__)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        do = "resume from a checkpoint written by pretrain"
        raise CheckpointError(
            wanted="a training checkpoint with its recipe", got="none that can be read", where=path, do=do
        ) from error
    return found


def position_in(tree: Mapping[str, Any]) -> Position:
    """The position that it states. Raises: ValueError: none, or one that no run can have."""
    stored, names = tree.get("progress"), [field.name for field in dataclasses.fields(Position)]
    if not isinstance(stored, Mapping) or {*stored} != {*names}:
        raise ValueError("a file without the position in the run")
    if any(type(stored[name]) is not int or stored[name] < 0 for name in names):
        raise ValueError("a position in the run that is none")
    return Position(**stored)


def fixed_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What no step changes of an optimizer's settings, by group."""
    return [{k: v for k, v in group.items() if k not in CHANGING} for group in optimizer.param_groups]


def check(state: State[Any], centers: Mapping[str, torch.Tensor], settings: list[dict[str, Any]]) -> None:
    """Check a state that was loaded.

    Args: centers: what they are before the first step. settings: the `fixed_settings` of the optimizer before.

    Raises: ValueError: an optimizer of other weights or settings, centres of another size, NaN or infinity anywhere.
    """
    named: dict[str, torch.Tensor] = {}
    if fixed_settings(state.optimizer) != settings:
        raise ValueError("an optimizer with other settings")
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            kept = state.optimizer.state.get(parameter, {})
            if kept and {*kept} != MOMENTS:
                raise ValueError("an optimizer that is not AdamW's")
            for name, value in kept.items():
                if not isinstance(value, torch.Tensor) or value.shape not in (parameter.shape, torch.Size()):
                    raise ValueError(f"{name} in the optimizer, which does not fit a weight {list(parameter.shape)}")
                if not bool(torch.isfinite(value).all()):
                    raise ValueError(f"NaN or infinity in {name} of the optimizer")
            if kept and not (kept["step"].numel() == 1 and kept["step"] >= 1 and kept["step"] % 1 == 0):
                raise ValueError("a number of steps in the optimizer that is none")
    for name, center in centers.items():
        if state.centers[name].shape != center.shape:
            raise ValueError(f"the centre {name} of shape {list(state.centers[name].shape)}")
        named[f"the centre {name}"] = state.centers[name]
    for net, which in ((state.network, "student"), (state.teacher, "teacher")):
        named |= {f"{which}.{key}": tensor for key, tensor in net.state_dict().items()}
    for name, tensor in named.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"NaN or infinity in {name}")
