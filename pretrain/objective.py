"""One micro-batch of a method: views and centres in, loss and what the next centres are made of out.

The losses themselves are the pure functions of `methods`; this file only says which outputs of which net they get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from evaltk.seeding import generator
from pretrain import centering, schedules
from pretrain.centering import RowSums
from pretrain.methods import dino, ibot, msn
from pretrain.nets import Network
from pretrain.recipe import Method, Recipe

PATCH_CHUNK = 4096  # rows of patch scores that exist at a time while the patch centre is made


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What a micro-batch gives.

    Attributes:
        loss: scalar, to be differentiated. parts: detached scalars for the log.
        sums: what each centre's update needs. teacher: detached teacher scores [n, K], `divide`: by what they are still
            to be divided, for what the monitor wants to see.
    """

    loss: Tensor
    parts: Mapping[str, Tensor]
    sums: Mapping[str, RowSums] = field(default_factory=dict)
    teacher: Tensor | None = None
    divide: float = 1.0


def initial_centers(method: Method, device: torch.device) -> dict[str, Tensor]:
    """The centres before the first step: zeros [K], one for class tokens and one for iBOT's patches."""
    names = {"dino": ("cls",), "ibot": ("cls", "patch"), "msn": ()}[method.name]
    return {name: torch.zeros(method.num_prototypes, device=device) for name in names}


def update_centers(centers: Mapping[str, Tensor], sums: Mapping[str, RowSums], method: Method) -> dict[str, Tensor]:
    """The centres after a step, from the sums over its micro-batches and all processes."""
    return {
        name: centering.update(c, sums[name], kind=method.centering, momentum=method.center_momentum)
        for name, c in centers.items()
    }


def evaluate(
    student: nn.Module,
    teacher: Network,
    views: list[Tensor],
    extra: Mapping[str, Any],
    centers: Mapping[str, Tensor],
    previous: Mapping[str, RowSums],
    recipe: Recipe,
    *,
    epoch: int,
    step: int,
) -> Outcome:
    """Loss of a micro-batch.

    Args:
        student: the network, or DDP around it. views: globals first, normalised [B, 3, s, s] each.
        extra: ``mask`` bool [2, B, h, w] for iBOT. previous: sums of the step's earlier micro-batches.
    """
    m = recipe.method
    if m.name == "msn":
        return _msn(student, teacher, views, recipe, step)
    num_globals = recipe.views.num_global
    (s_score, s_loss), (t_score, t_loss) = _temperatures(m, epoch)
    inner: Network = getattr(student, "module", student)  # DDP keeps the network under `module`
    mask = extra["mask"].flatten(0, 1).to(views[0].device) if m.name == "ibot" else None  # [2 B, h, w]
    with torch.no_grad():
        everything = None if mask is None else torch.ones_like(mask).flatten(1)
        seen = teacher(views[:num_globals], patches=everything)
        t_cls = teacher.head.scores(seen["cls"], t_score)
    sums = {"cls": centering.accumulate(t_cls, kind=m.centering, previous=previous.get("cls"))}
    made = student(views, mask=mask, patches=None if mask is None else mask.flatten(1))
    s_cls = inner.head.scores(made["cls"], s_score)
    if mask is None:
        targets = dino.teacher_probabilities(t_cls, centers["cls"], temperature=t_loss)
        loss = dino.cross_view_loss(s_cls, targets, temperature=s_loss, num_globals=num_globals, overwrite=True)
        return Outcome(loss=loss, parts={}, sums=sums, teacher=t_cls, divide=t_loss)
    t_patch, patch_sums = _teacher_patches(teacher, seen["patch"], mask, t_score, m, previous.get("patch"))
    settings = ibot.Settings(
        student_temperature=s_loss,
        teacher_temperature=t_loss,
        teacher_patch_temperature=t_loss,
        cls_weight=m.cls_weight,
        patch_weight=m.patch_weight,
        num_globals=num_globals,
    )
    s_patch = inner.head.scores(made["patch"], s_score, patch=True)
    patches = (s_patch, t_patch, mask.flatten(1))
    found = ibot.loss(s_cls, t_cls, *patches, centers["cls"], centers["patch"], settings=settings, overwrite=True)
    parts = {"loss_cls": found.cls.detach(), "loss_patch": found.patch.detach()}
    return Outcome(loss=found.total, parts=parts, sums=sums | {"patch": patch_sums}, teacher=t_cls, divide=t_loss)


def _temperatures(m: Method, epoch: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(what scores are divided by, what the loss divides by) for the student and for the teacher in an epoch."""
    teacher = schedules.teacher_temperature(
        epoch, start=m.teacher_temp, end=m.teacher_temp_end, warmup_epochs=m.teacher_temp_warmup
    )
    return (
        dino.split_temperature(m.student_temp, scoring=m.scoring, centering_kind=m.centering),
        dino.split_temperature(teacher, scoring=m.scoring, centering_kind=m.centering),
    )


@torch.no_grad()
def _teacher_patches(
    teacher: Network, y: Tensor, mask: Tensor, temperature: float, method: Method, previous: RowSums | None
) -> tuple[Tensor, RowSums]:
    """(scores of the masked patches [M, K], sums over all patches), a chunk of y [2 B N, p] at a time."""
    for rows in y.split(PATCH_CHUNK):
        scores = teacher.head.scores(rows, temperature, patch=True)
        previous = centering.accumulate(scores, kind=method.centering, previous=previous)
    if previous is None:
        raise ValueError("wanted at least one patch, got none")
    return teacher.head.scores(y[mask.flatten()], temperature, patch=True), previous


def _msn(student: nn.Module, teacher: Network, views: list[Tensor], recipe: Recipe, step: int) -> Outcome:
    """The first view is the target, the second the anchor whose patches are dropped, the others focal anchors."""
    m = recipe.method
    h, w = teacher.backbone.grid_of(views[1])
    kept = int((1 - m.patch_drop) * h * w)
    order = torch.randperm(h * w, generator=generator(recipe.run.seed, "patch drop", step))[:kept].sort().values
    with torch.no_grad():
        targets = teacher(views[:1])["cls"]
    anchors = student(views[1:], keep=order.to(views[1].device))["cls"]
    inner: Network = getattr(student, "module", student)
    settings = msn.Settings(
        temperature=m.student_temp,
        sharpen_temperature=m.sharpen,
        sinkhorn_iterations=m.sinkhorn,
        me_max_weight=m.me_max,
    )
    found = msn.loss(anchors, targets, inner.prototypes, settings=settings)
    parts = {"cross_entropy": found.cross_entropy.detach(), "me_max": found.me_max.detach()}
    return Outcome(loss=found.total, parts=parts, teacher=found.targets.clamp(min=1e-30).log())
