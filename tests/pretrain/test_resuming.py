"""A checkpoint whose optimizer, centres or weights could not have come from a training is not resumed from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evaltk.errors import CheckpointError
from pretrain import checkpoint, methods, nets, recipe
from pretrain.loop import init_state

TINY = ["net.arch=vit_patch8_dim8_depth1_heads2_img16", "method.num_prototypes=16", "method.hidden=16",
        "method.bottleneck=8"]  # fmt: skip
METHOD, CPU = methods.get("dino"), torch.device("cpu")


def first(tree: dict[str, Any]) -> dict[str, Any]:
    """AdamW's state of the first weight."""
    state: dict[str, Any] = tree["optimizer"]["state"][0]
    return state


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no step taken": (lambda t: first(t)["step"].zero_(), "a number of steps in the optimizer that is none"),
    "half a step": (lambda t: first(t)["step"].fill_(1.5), "a number of steps in the optimizer that is none"),
    "steps below zero": (lambda t: first(t)["step"].fill_(-3), "a number of steps in the optimizer that is none"),
    "NaN": (lambda t: first(t)["exp_avg"].fill_(torch.nan), "NaN or infinity in exp_avg of the optimizer"),
    "another shape": (
        lambda t: first(t).update(exp_avg_sq=torch.ones(3, 3)),
        "exp_avg_sq in the optimizer, which does",
    ),
    "no moment": (lambda t: first(t).pop("exp_avg"), "an optimizer that is not AdamW's"),
    "another rule": (lambda t: t["optimizer"]["param_groups"][0].update(betas=(0.5, 0.5)), "with other settings"),
    "a weight": (lambda t: t["student"]["backbone.norm.weight"].fill_(torch.inf), "NaN or infinity in student"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_an_impossible_state_is_named(what: str, tmp_path: Path) -> None:
    told = recipe.load("digits_dino_vmf", TINY)
    arch = nets.parse(told.net.arch)
    state = init_state(told, METHOD, arch, CPU)
    for parameter in state.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    tree = checkpoint.pack(told, METHOD, arch, state)
    path = tmp_path / "a.pth"
    torch.save(tree, path)
    checkpoint.resume(init_state(told, METHOD, arch, CPU), told, METHOD, folder=tmp_path, source=str(path), images=None)
    tree = torch.load(path, weights_only=True)
    change, said = DAMAGES[what]
    change(tree)
    torch.save(tree, path)
    fresh = init_state(told, METHOD, arch, CPU)
    with pytest.raises(CheckpointError, match=rf"wanted a checkpoint of this network; got .*{said}"):
        checkpoint.resume(fresh, told, METHOD, folder=tmp_path, source=str(path), images=None)
