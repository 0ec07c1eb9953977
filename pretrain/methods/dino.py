"""DINO and DINO-vMF: the same loss on different scores.

Both compare ``softmax((teacher - centre) / tau_t)`` with ``log_softmax(student / tau_s)`` over all pairs of a teacher's
global view and a different view of the student. They differ in where the temperature divides:

    DINO      logits <w, y> and their centre are undivided; the loss divides by tau
    DINO-vMF  scores, including log C_p, and their centre are already divided by tau; the loss divides by 1

`split_temperature` returns which of the two applies to each cell of the paper's Table 1.

Source: dino main_dino.py:363-404; Govindarajan et al., ICLR 2023, Eq. 6, 7, Table 1.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evaltk.models.vit import ViT
from evaltk.types import Arch
from pretrain import centering, method, nets, prototypes, schedules
from pretrain.data.loader import Batch
from pretrain.state import State

Students: TypeAlias = Tensor | Sequence[Tensor]


class Temperatures(NamedTuple):
    """What scores are divided by, and what the loss still divides them by."""

    scores: float
    loss: float


def temperatures(settings: method.Settings, epoch: int) -> tuple[Temperatures, Temperatures]:
    """The student's and the teacher's temperatures in an epoch."""
    m = settings
    teacher = schedules.teacher_temperature(
        epoch, start=m.teacher_temp, end=m.teacher_temp_end, warmup_epochs=m.teacher_temp_warmup
    )
    return (
        split_temperature(m.student_temp, scoring=m.scoring, centering_kind=m.centering),
        split_temperature(teacher, scoring=m.scoring, centering_kind=m.centering),
    )


def split_temperature(temperature: float, *, scoring: prototypes.Kind, centering_kind: centering.Kind) -> Temperatures:
    """What the scores are divided by, and what the loss divides by; their product is `temperature`.

    DINO's own centre (Eq. 8 on linear or cosine scores) averages undivided logits, hence (1, temperature). With log C_p
    in the scores, or a centre in probability space (Eq. 9), division comes before centring: (temperature, 1).

    Args:
        temperature: tau_s or tau_t of this step, > 0.
        scoring: "linear", "cosine" or "vmf".
        centering_kind: "logit" or "probability".

    Raises: SettingsError: temperature <= 0, unknown scoring or centring.
    """
    prototypes.check_temperature(temperature)
    prototypes.check_kind(scoring)
    centering.check_kind(centering_kind)
    divide_late = scoring != "vmf" and centering_kind == "logit"
    return Temperatures(1.0, temperature) if divide_late else Temperatures(temperature, 1.0)


def loss(
    student: Students,
    teacher: Tensor,
    center: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    num_globals: int = 2,
    overwrite: bool = False,
) -> Tensor:
    """Mean cross-entropy over images and all pairs of a teacher's global view and a different view of the student.

    Args:
        student: scores of V views, [V * B, K] with the view as the outer index and the globals first, or a sequence of
            such tensors in the order of views (e.g. globals, then locals); any float dtype.
        teacher: scores of the global views, [num_globals * B, K]; no gradient flows into them.
        center: the teacher's centre [K] (or [1, K]), as it was before this batch.
        student_temperature, teacher_temperature: what the scores are still to be divided by, > 0; 1 for scores already
            divided, such as DINO-vMF's.
        num_globals: the teacher's views, 2 in the paper.
        overwrite: let the backward pass write the gradient over the student's scores, which must not be used elsewhere.

    Returns:
        The loss, scalar, float32 (float64 if the student is). Only one view's B rows exist as log-probabilities at a
        time, in the backward pass too, for which only the scores themselves and the teacher's probabilities are kept.
        With `overwrite` there is never more than one copy of the student's scores; without, the gradient is a second.

    Raises: SettingsError: a temperature <= 0, or K < 2. ValueError: mismatched shapes.
    """
    targets = teacher_probabilities(teacher, center, temperature=teacher_temperature)
    return cross_view_loss(
        student, targets, temperature=student_temperature, num_globals=num_globals, overwrite=overwrite
    )


@torch.no_grad()
def teacher_probabilities(teacher: Tensor, center: Tensor, *, temperature: float) -> Tensor:
    """softmax((teacher - centre) / temperature), detached.

    Args:
        teacher: scores [..., K], any float dtype.
        center: [K] (or [1, K], [1, 1, K]).
        temperature: what the scores and the centre are still to be divided by, > 0.

    Returns:
        Probabilities [..., K], float32 (float64 if teacher is).

    Raises: SettingsError: temperature <= 0, or K < 2. ValueError: K differs between teacher and centre.
    """
    prototypes.check_temperature(temperature, "teacher temperature")
    prototypes.check_num_prototypes(teacher.shape[-1])
    if center.numel() != teacher.shape[-1]:
        raise ValueError(f"wanted a centre of {teacher.shape[-1]} elements, got shape {tuple(center.shape)}")
    wide = teacher.detach().to(_wide(teacher))
    return torch.softmax((wide - center.detach().reshape(-1).to(wide.dtype)).div_(temperature), dim=-1)


def cross_view_loss(
    student: Students, targets: Tensor, *, temperature: float, num_globals: int = 2, overwrite: bool = False
) -> Tensor:
    """`loss`, given the teacher's probabilities.

    Args:
        student: as in `loss`.
        targets: teacher's probabilities [num_globals * B, K].
        temperature: of the student, > 0.
        num_globals: teacher's views.
        overwrite: as in `loss`.

    Returns: the loss, scalar.
    Raises: SettingsError: temperature <= 0. ValueError: mismatched shapes, or no pair of different views.
    """
    students = (student,) if isinstance(student, Tensor) else tuple(student)
    batch, odd = divmod(targets.shape[0], num_globals)
    rows = sum(s.shape[0] for s in students)
    if odd or batch == 0 or rows % batch or rows < targets.shape[0]:
        raise ValueError(
            f"wanted {num_globals} x B teacher rows and at least as many views of B student rows, "
            f"got {targets.shape[0]} and {rows}"
        )
    num_views = rows // batch
    num_pairs = num_globals * (num_views - 1)
    if num_pairs == 0:
        raise ValueError("wanted at least two views, got one: there is no pair of different views")
    per_view = targets.chunk(num_globals)
    # The cross-entropy is linear in the target: a view is compared once, with the sum of its teachers.
    blocks = [_sum([q for i, q in enumerate(per_view) if i != v], like=per_view[0]) for v in range(num_globals)]
    if num_views > num_globals:
        blocks += [_sum(per_view, like=per_view[0])] * (num_views - num_globals)
    total = soft_cross_entropy(students, blocks, temperature=temperature, overwrite=overwrite)
    return total / (num_pairs * batch)


def soft_cross_entropy(
    student: Students, targets: Sequence[Tensor], *, temperature: float, overwrite: bool = False
) -> Tensor:
    """-sum over rows and components of target x log softmax(student / temperature), block by block.

    Args:
        student: scores [R, K], or several tensors that are concatenated by rows; gradients flow into these.
        targets: blocks [n, K] of non-negative target weights that cover the student's rows in order; rows need not sum
            to 1, so that weights may be multiplied in. No gradient flows into them.
        temperature: > 0.
        overwrite: as in `loss`.

    Returns:
        The sum, scalar, float32 (float64 if the student is).

    Raises: SettingsError: temperature <= 0. ValueError: blocks that do not cover the rows of each student tensor.
    """
    prototypes.check_temperature(temperature, "student temperature")
    students = (student,) if isinstance(student, Tensor) else tuple(student)
    plan: list[tuple[int, int, int]] = []
    index, start = 0, 0
    for target in targets:
        while index < len(students) - 1 and start == students[index].shape[0]:
            index, start = index + 1, 0
        plan.append((index, start, start + target.shape[0]))
        start += target.shape[0]
        if start > students[index].shape[0] or target.shape[1:] != students[index].shape[1:]:
            raise ValueError(
                f"wanted blocks that fill the student's {[tuple(s.shape) for s in students]}, "
                f"got {[tuple(t.shape) for t in targets]}"
            )
    if index != len(students) - 1 or start != students[index].shape[0]:
        raise ValueError(f"wanted targets for all rows, got none from row {start} of student tensor {index} on")
    out: Tensor = _SoftCrossEntropy.apply(temperature, overwrite, tuple(plan), len(students), *students, *targets)
    return out


def mean_entropy(probabilities: Tensor) -> Tensor:
    """Mean entropy of the rows [..., K] in nats, in [0, log K]; a teacher near 0 or log K has collapsed."""
    return torch.special.entr(probabilities).sum(-1).mean()


class _SoftCrossEntropy(torch.autograd.Function):
    """Keeps only its inputs for the backward pass and computes the softmax one block at a time, in both passes."""

    @staticmethod
    def forward(
        ctx: Any,
        temperature: float,
        overwrite: bool,
        plan: tuple[tuple[int, int, int], ...],
        count: int,
        *tensors: Tensor,
    ) -> Tensor:
        students, targets = tensors[:count], tensors[count:]
        ctx.temperature, ctx.overwrite, ctx.plan, ctx.count = temperature, overwrite, plan, count
        ctx.save_for_backward(*tensors)
        total = torch.zeros((), dtype=_wide(students[0]), device=students[0].device)
        for (index, start, stop), target in zip(plan, targets, strict=True):
            log_p = torch.log_softmax(_divided(students[index][start:stop], temperature), dim=-1)
            total -= log_p.mul_(target).sum()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        students, targets = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        # Each block is read before it is written; autograd's version check rejects a second backward pass.
        grads = [s.detach() if ctx.overwrite else torch.empty_like(s) for s in students]
        last, mass = None, targets[0]
        for (index, start, stop), target in zip(ctx.plan, targets, strict=True):
            if target is not last:  # most views have the same one
                last, mass = target, target.sum(-1, keepdim=True)
            p = torch.softmax(_divided(students[index][start:stop], ctx.temperature), dim=-1)
            p.mul_(mass).sub_(target)
            torch.mul(p, grad_output / ctx.temperature, out=grads[index][start:stop])
        return (None, None, None, None, *grads, *(None for _ in targets))


def _sum(tensors: Sequence[Tensor], *, like: Tensor) -> Tensor:
    return functools.reduce(operator.add, tensors) if tensors else torch.zeros_like(like)


def _divided(scores: Tensor, temperature: float) -> Tensor:
    """Scores / temperature, wide; those of DINO-vMF are divided already."""
    wide = scores.to(_wide(scores))
    return wide if temperature == 1 else wide / temperature


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class Dino(method.Method[method.Settings]):
    """DINO and DINO-vMF."""

    name = "dino"

    def network(self, arch: Arch, settings: method.Settings, *, drop_path: float) -> nets.Network:
        """A ViT and DINO's head."""
        m = settings
        backbone = ViT(arch, drop_path=drop_path)
        return nets.Network(backbone, nets.Head(arch.embed_dim, m.hidden, m.bottleneck, m.num_prototypes, m.scoring))

    def loss(self, batch: Batch, state: State[method.Settings]) -> method.LossOutput:
        """Cross-entropy between the teacher's global views and the student's other views."""
        m = state.settings
        student_temps, teacher_temps = temperatures(m, state.position.epoch)
        with torch.no_grad():
            y = state.teacher(batch.views[: batch.num_global])["cls"]
            teacher = state.teacher.head.scores(y, teacher_temps.scores)
        sums = centering.accumulate(teacher, kind=m.centering, previous=state.sums.get("cls"))
        student = state.network.head.scores(state.student(batch.views)["cls"], student_temps.scores)
        targets = teacher_probabilities(teacher, state.centers["cls"], temperature=teacher_temps.loss)
        total = cross_view_loss(
            student, targets, temperature=student_temps.loss, num_globals=batch.num_global, overwrite=True
        )
        return method.LossOutput(loss=total, sums={"cls": sums}, teacher=teacher, temperature=teacher_temps.loss)

    def log(self, output: method.LossOutput, teacher_entropy: float) -> dict[str, float]:
        """KL divergence in nats: cross-entropy less the entropy of its targets, of the same images."""
        return {"kl": float(output.loss) - teacher_entropy}


METHOD = Dino()
