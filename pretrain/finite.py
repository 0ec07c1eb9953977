"""Whether a step is finite, asked once a step of everything at once; and, where it is not, what was first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from evaltk import distributed
from pretrain.method import LossOutput
from pretrain.optim import Optim
from pretrain.recipe import Recipe
from pretrain.state import State

LOW_TEMPERATURE = 0.02  # half the lowest that papers use
LOW_SPREAD = 1e-3  # of pixels in [0, 1]; a gray level is 4e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gradients:
    """Norms of a step's gradients before clipping, [n] each, with the weights' names in the order of the forward pass.

    others: of the weights that are not clipped.
    """

    names: tuple[str, ...]
    norms: Tensor
    other_names: tuple[str, ...] = ()
    others: Tensor | None = None

    def flags(self, settings: Optim) -> list[Tensor]:
        """What has to be finite. Without clipping, AdamW squares the gradients as they are."""
        norms = [self.norms, *([] if self.others is None else [self.others])]
        return norms if settings.clip else [norm.square() for norm in norms]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """On a step before its update, the same on every process.

    Attributes:
        loss: mean over processes. stop, unreadable: whether a process was asked to stop, met an unreadable image.
        values: whether loss, teacher and centres are finite. gradients: whether all gradients are.
    """

    loss: float
    stop: bool
    unreadable: bool
    values: bool
    gradients: bool


def verdict(
    loss: Tensor, values: Sequence[Tensor | float], gradients: Sequence[Tensor], *, stop: bool, unreadable: bool
) -> Verdict:
    """One exchange between processes and one read from the device, whatever the number of tensors."""
    told = torch.stack([loss.new_full((), float(stop)), loss.new_full((), float(unreadable))])
    tensors = [loss, *(torch.as_tensor(value, device=loss.device) for value in values)]
    flags = torch.stack([_spoiled(tensors), _spoiled(gradients)]).to(loss)
    mean = distributed.all_reduce(torch.cat([loss.reshape(1), told, flags]), op="mean").tolist()
    return Verdict(
        loss=mean[0], stop=mean[1] > 0, unreadable=mean[2] > 0, values=not mean[3] > 0, gradients=not mean[4] > 0
    )


def _spoiled(tensors: Sequence[Tensor]) -> Tensor:
    """Whether any of them is not finite, as a scalar on the device."""
    return ~torch.stack([torch.isfinite(t).all() for t in tensors]).all()


def first(named: Iterable[tuple[str, Tensor]]) -> tuple[str, str] | None:
    """The first of `named` that is not finite, with its value in words (``NaN``, ``infinity``); one read for all."""
    tensors = [(name, t.detach()) for name, t in named if t.is_floating_point()]
    if not tensors:
        return None
    finite = torch.stack([torch.isfinite(t).all() for _, t in tensors]).tolist()
    name, tensor = next((one for one, fine in zip(tensors, finite, strict=True) if not fine), ("", None))
    return None if tensor is None else (name, word(tensor))


def word(tensor: Tensor) -> str:
    """``NaN`` or ``infinity``, whichever is in there."""
    return "NaN" if bool(torch.isnan(tensor).any()) else "infinity"


def in_state(state: State[Any]) -> tuple[str, str] | None:
    """The first tensor that a checkpoint holds and that is not finite: of the nets, the optimizer, the centres."""
    moments = (
        (f"the optimizer's {key} of {name}", value)
        for name, parameter in state.network.named_parameters()
        for key, value in state.optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    )
    return first([*_weights(state.network, "student"), *_weights(state.teacher, "teacher"), *_centers(state), *moments])


def _weights(net: nn.Module, called: str) -> list[tuple[str, Tensor]]:
    return [(f"the {called}'s {name}", tensor) for name, tensor in net.state_dict().items()]


def _centers(state: State[Any]) -> list[tuple[str, Tensor]]:
    return [(f"the centre {name}", center) for name, center in state.centers.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was not finite first.

    Attributes:
        what: ``NaN in the gradient of head.mlp.0.weight``. images: ids of the step's images, those concerned first.
        spoiled: whether it is in the state itself, so that leaving the step out does not help.
    """

    what: str
    images: tuple[str, ...]
    spoiled: bool


def diagnose(
    state: State[Any],
    loss: float,
    parts: Mapping[str, Any],
    output: LossOutput,
    gradients: Gradients,
    ids: Sequence[str],
) -> Finding:
    """What was first on the way from the weights to the gradients, on the first process where something was.

    With the images of every such process.

    Args: ids: of this process's images, of which `output` holds the last micro-batch.
    """
    mine = _diagnose(state, parts, output, gradients, tuple(ids))
    found = [one for one in distributed.gather_objects(mine) if isinstance(one, Finding)]
    if not found:
        return Finding(what=f"{_number(loss)} in the loss", images=tuple(ids), spoiled=False)
    return replace(found[0], images=tuple(name for one in found for name in one.images))


def _diagnose(
    state: State[Any], parts: Mapping[str, Any], output: LossOutput, gradients: Gradients, ids: tuple[str, ...]
) -> Finding | None:
    weights = [*_weights(state.network, "student"), *_weights(state.teacher, "teacher"), *_centers(state)]
    if found := first(weights):
        return Finding(what=f"{found[1]} in {found[0]}", images=ids, spoiled=True)
    if output.teacher is not None and not bool(torch.isfinite(output.teacher).all()):
        return Finding(
            what=f"{word(output.teacher)} in the teacher's scores",
            images=_concerned(output.teacher, ids),
            spoiled=False,
        )
    terms = [(f"the loss term {name}", torch.as_tensor(value)) for name, value in parts.items()]
    if found := first([*terms, ("the loss, from the student's scores", output.loss)]):
        return Finding(what=f"{found[1]} in {found[0]}", images=ids, spoiled=False)
    named = [*zip(gradients.names, gradients.norms, strict=True)]
    if gradients.others is not None:
        named += zip(gradients.other_names, gradients.others, strict=True)
    bad = [(name, norm) for name, norm in named if not math.isfinite(float(norm.square()))]
    if bad:
        name, norm = bad[-1]  # the backward pass came to the last one first
        value = "values too large to square" if math.isfinite(float(norm)) else word(norm)
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        return Finding(what=f"{value} in the gradient of {name}{more}", images=ids, spoiled=False)
    return None


def _concerned(scores: Tensor, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The step's images, first those whose rows of scores [views * B, K] are not finite."""
    bad = ~torch.isfinite(scores).all(dim=1)
    count = len(ids) if len(bad) % len(ids) == 0 else 0  # several micro-batches: only the last one's rows are there
    rows = {int(row) % count for row in bad.nonzero()} if count else set()
    return (*(ids[row] for row in sorted(rows)), *(name for row, name in enumerate(ids) if row not in rows))


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinity" if math.isinf(value) else f"{value:g}"


def advice(recipe: Recipe, step: int = 1) -> str:
    """What helps, with what it is now, the likeliest first. Before the first update no rate can be to blame."""
    m, o = recipe.method, recipe.optim
    temperatures = {"student_temp": m.student_temp, "teacher_temp": m.teacher_temp}
    low = [f"raise method.{key} ({value:g})" for key, value in temperatures.items() if value < LOW_TEMPERATURE]
    exact = [] if recipe.run.precision == "fp32" else [f"run.precision=fp32 ({recipe.run.precision})"]
    clip = f"lower optim.clip ({o.clip:g})" if o.clip else "optim.clip=3 (off)"
    rate = [f"lower optim.lr ({o.lr:g})", f"lengthen optim.warmup_epochs ({o.warmup_epochs:g})"]
    spread = min(recipe.data.std)
    low += [f"check data.std ({spread:g})"] if spread < LOW_SPREAD else []
    if step == 0 and (low or exact):
        return ", ".join([*low, *exact])
    return ", ".join([*low, rate[0], *exact, rate[1], clip][:4])


def buffers(*nets: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The nets' buffers, such as BatchNorm's running statistics, which a forward pass changes, with their values."""
    return [(buffer, buffer.clone()) for net in nets for buffer in net.buffers()]


@torch.no_grad()
def restore(kept: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Put back what `buffers` kept."""
    for buffer, value in kept:
        buffer.copy_(value)
