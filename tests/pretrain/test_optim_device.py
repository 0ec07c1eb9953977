"""A checkpoint of a machine with a GPU goes on without one, and the other way round."""

from __future__ import annotations

import copy

import torch

from pretrain import optim


def stepped(fused: bool | None) -> torch.optim.AdamW:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    made = torch.optim.AdamW([{"params": [weight]}], lr=0.1, weight_decay=0.01, fused=fused)
    for step in range(3):
        weight.grad = torch.full_like(weight, step + 1.0)
        made.step()
    return made


def test_how_an_optimizer_computes_is_the_machine_s_own() -> None:
    """Fused on one machine, not on the other: the same moments and settings, and the next step works."""
    for there, here in ((True, None), (None, True)):
        old, new = stepped(there), stepped(here)
        stored = copy.deepcopy(old.state_dict())
        new.load_state_dict(optim.as_here(stored, new))
        group = new.param_groups[0]
        assert group["fused"] is here and group["weight_decay"] == 0.01 and stored["param_groups"][0]["fused"] is there
        (weight,) = group["params"]
        assert torch.equal(new.state[weight]["exp_avg"], old.state[old.param_groups[0]["params"][0]]["exp_avg"])
        weight.grad = torch.ones_like(weight)
        new.step()
        assert float(new.state[weight]["step"]) == 4
