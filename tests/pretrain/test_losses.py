"""The losses against the original code's recorded steps, plain loops and finite differences, and what they hold."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evaltk.errors import SettingsError
from pretrain.methods import dino, ibot, msn

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


def close(got: Tensor, wanted: Tensor) -> None:
    """Within 1e-5, relative to the largest element (single ones may be 0)."""
    torch.testing.assert_close(got.detach().to(wanted.dtype), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("in_parts", [False, True])
def test_dino_steps(step: int, in_parts: bool) -> None:
    student = golden("dino_student").requires_grad_()
    center = torch.zeros(300) if step == 0 else golden(f"dino_center_{step - 1}")
    given = student.split([12, 18]) if in_parts else student
    temperature = float(GOLDEN["dino_temps"][step])
    loss = dino.loss(given, golden("dino_teacher") + step, center, teacher_temperature=temperature)
    loss.backward()
    assert student.grad is not None
    close(loss, golden(f"dino_loss_{step}"))
    close(student.grad, golden(f"dino_grad_{step}"))


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("rows_only", [False, True])
def test_ibot_steps(step: int, rows_only: bool) -> None:
    student_cls, student_patch = (golden(f"ibot_student_{x}").requires_grad_() for x in ("cls", "patch"))
    teacher_cls, teacher_patch = golden("ibot_teacher_cls") + step, golden("ibot_teacher_patch") - step
    mask = golden("ibot_mask")
    center, patch_center = (
        (torch.zeros(300), torch.zeros(80))
        if step == 0
        else (golden(f"ibot_center_{step - 1}"), golden(f"ibot_center2_{step - 1}"))
    )
    temperature = float(GOLDEN["dino_temps"][step])
    flat = mask.reshape(12, 49)
    out = ibot.loss(
        [student_cls, golden("ibot_student_local")],
        teacher_cls,
        student_patch[flat] if rows_only else student_patch,
        teacher_patch[flat] if rows_only else teacher_patch,
        mask,
        center,
        patch_center,
        settings=ibot.Settings(teacher_temperature=temperature, teacher_patch_temperature=temperature),
    )
    out.total.backward()
    assert student_cls.grad is not None and student_patch.grad is not None
    close(out.cls, golden(f"ibot_cls_{step}"))
    close(out.patch, golden(f"ibot_patch_{step}"))
    close(out.total, golden(f"ibot_cls_{step}") + golden(f"ibot_patch_{step}"))
    close(student_cls.grad, golden(f"ibot_gradcls_{step}"))
    close(student_patch.grad[:, ::5], golden(f"ibot_gradpatch_{step}"))


@pytest.mark.parametrize(("name", "iterations"), [("nosk", 0), ("sk", 3)])
def test_msn(name: str, iterations: int) -> None:
    anchors, vectors = golden("msn_anchor").requires_grad_(), golden("msn_proto").requires_grad_()
    out = msn.loss(anchors, golden("msn_target"), vectors, settings=msn.Settings(sinkhorn_iterations=iterations))
    out.total.backward()
    assert anchors.grad is not None
    assert vectors.grad is not None
    close(out.cross_entropy, golden(f"msn_{name}_ploss"))
    close(out.me_max, golden(f"msn_{name}_rloss"))
    close(out.entropy, golden(f"msn_{name}_ent"))
    close(out.targets.repeat(4, 1), golden(f"msn_{name}_targets"))
    close(anchors.grad, golden(f"msn_{name}_grad_anchor"))
    close(vectors.grad, golden(f"msn_{name}_grad_proto"))


def test_dino_from_a_plain_loop() -> None:
    """Three global views, five views in all, soft teachers, a centre that matters."""
    generator = torch.Generator().manual_seed(0)
    batch, num_prototypes = 2, 6
    student = torch.randn(5 * batch, num_prototypes, generator=generator, dtype=torch.float64)
    teacher = torch.randn(3 * batch, num_prototypes, generator=generator, dtype=torch.float64)
    center = torch.randn(num_prototypes, generator=generator, dtype=torch.float64)
    terms = []
    for q in range(3):
        for v in range(5):
            for b in range(batch):
                if v == q:
                    continue
                t = [math.exp((float(teacher[q * batch + b, k]) - float(center[k])) / 0.5) for k in range(6)]
                s = [math.exp(float(student[v * batch + b, k]) / 0.3) for k in range(6)]
                terms.append(-sum(t[k] / sum(t) * math.log(s[k] / sum(s)) for k in range(6)))
    got = dino.loss(student, teacher, center, student_temperature=0.3, teacher_temperature=0.5, num_globals=3)
    assert float(got) == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    assert len(terms) == 12 * batch


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    globals_, locals_ = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (4, 6))
    teacher = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    center = torch.zeros(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: 3.0 * dino.loss([a, b], teacher, center, student_temperature=0.4, teacher_temperature=0.3),
        (globals_.requires_grad_(), locals_.requires_grad_()),
    )
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])
    patches = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: ibot.patch_loss(x, teacher[:, None].expand(4, 3, 5) * 2, mask, center, chunk_elements=10), patches
    )
    vectors = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    settings = msn.Settings(entropy_weight=0.5)
    assert torch.autograd.gradcheck(
        lambda z: msn.loss(z, teacher[:2], vectors, settings=settings).total, globals_.detach().requires_grad_()
    )


def test_at_the_start_the_loss_is_log_k() -> None:
    loss = dino.loss(torch.zeros(8, 100), torch.zeros(4, 100), torch.zeros(100))
    assert float(loss) == pytest.approx(math.log(100), rel=1e-6)
    uniform = dino.teacher_probabilities(torch.zeros(4, 100), torch.zeros(100), temperature=0.04)
    assert float(dino.mean_entropy(uniform)) == pytest.approx(math.log(100), rel=1e-6)
    assert float(dino.mean_entropy(torch.eye(5))) == 0.0


def test_no_masked_patch_gives_zero() -> None:
    student = torch.randn(4, 9, 20, requires_grad=True)
    loss = ibot.patch_loss(student, torch.randn(4, 9, 20), torch.zeros(4, 9, dtype=torch.bool), torch.zeros(20))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert student.grad is not None
    assert not student.grad.any()


def test_msn_sharpen_and_sinkhorn_by_hand() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    fourth = p.numpy() ** 4
    np.testing.assert_allclose(msn.sharpen(p, 0.25).numpy(), fourth / fourth.sum(1, keepdims=True), rtol=1e-12)
    balanced = msn.sinkhorn(p, iterations=200)
    np.testing.assert_allclose(balanced.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(balanced.sum(0), 2 / 3, rtol=1e-9)
    # Balancing multiplies rows and columns by factors, so cross-ratios stay.
    ratio = [float(x[0, 0] * x[1, 2] / (x[0, 2] * x[1, 0])) for x in (p, balanced)]
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-9)
    assert float(msn.mean_entropy_gap(torch.eye(4))) == pytest.approx(0.0, abs=1e-6)
    assert float(msn.mean_entropy_gap(torch.tensor([[0.75, 0.25]]))) == pytest.approx(
        math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25), rel=1e-6
    )


def test_autocast_and_half_precision_do_not_matter() -> None:
    student, teacher = golden("dino_student"), golden("dino_teacher")
    plain = dino.loss(student, teacher, torch.zeros(300))
    anchors = msn.loss(golden("msn_anchor"), golden("msn_target"), golden("msn_proto")).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dino.loss(student, teacher, torch.zeros(300)), plain)
        assert torch.equal(msn.loss(golden("msn_anchor"), golden("msn_target"), golden("msn_proto")).total, anchors)
    half = student.bfloat16().requires_grad_()
    loss = dino.loss(half, teacher.bfloat16(), torch.zeros(300))
    loss.backward()
    assert half.grad is not None and (loss.dtype, half.grad.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(loss.detach(), plain, rtol=1e-2, atol=0)


class _LiveBytes(TorchDispatchMode):
    """Bytes in storages made since entering and still alive, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and not func.is_view:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        pointer, size = storage.data_ptr(), storage.nbytes()
        if size and pointer not in self.known:
            self.known.add(pointer)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, pointer, size)

    def _free(self, pointer: int, size: int) -> None:
        self.known.discard(pointer)
        self.now -= size


def _plain_dino(student: Tensor, teacher: Tensor) -> Tensor:
    q = torch.softmax(teacher / 0.04, dim=-1).chunk(2)
    log_p = [torch.log_softmax(s, dim=-1) for s in (student / 0.1).chunk(12)]
    return sum((-(q[i] * log_p[v]).sum(-1).mean() for i in range(2) for v in range(12) if v != i), torch.zeros(()))


def test_memory_stays_below_one_copy_of_the_students_logits() -> None:
    student = torch.randn(12 * 4, 2048, requires_grad=True)
    teacher, one_copy = torch.randn(2 * 4, 2048), 12 * 4 * 2048 * 4
    with _LiveBytes() as plain:
        _plain_dino(student, teacher)
    with _LiveBytes() as forward:
        loss = dino.loss(student, teacher, torch.zeros(2048))
    with _LiveBytes() as backward:
        loss.backward()
    assert plain.peak > 2 * one_copy  # what the measure shows for the loss written down naively
    assert forward.peak < 0.75 * one_copy
    assert backward.peak < 1.5 * one_copy  # one copy is the gradient itself


def test_overwriting_gives_the_same_gradients_and_forbids_a_second_pass() -> None:
    draw = torch.Generator().manual_seed(0)
    y, w = torch.randn(8, 5, generator=draw), torch.randn(7, 5, generator=draw, requires_grad=True)
    teacher, center = torch.randn(4, 7, generator=draw), torch.zeros(7)
    gradients = []
    for overwrite in (False, True):
        scores = y @ w.T
        loss = dino.loss(scores, teacher, center, overwrite=overwrite)
        before = scores.detach().clone()
        gradients.append(torch.autograd.grad(loss, w, retain_graph=True)[0])
        assert torch.equal(scores, before) is not overwrite
        if overwrite:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                torch.autograd.grad(loss, w)
    assert torch.equal(*gradients)


def test_wrong_arguments() -> None:
    center = torch.zeros(4)
    with pytest.raises(SettingsError, match="temperature > 0; got -1"):
        dino.loss(torch.zeros(8, 4), torch.zeros(4, 4), center, student_temperature=-1.0)
    with pytest.raises(SettingsError, match="at least 2 prototypes"):
        dino.loss(torch.zeros(8, 1), torch.zeros(4, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="views of B student rows"):
        dino.loss(torch.zeros(7, 4), torch.zeros(4, 4), center)
    with pytest.raises(ValueError, match="centre of 4 elements"):
        dino.loss(torch.zeros(8, 4), torch.zeros(4, 4), torch.zeros(3))
    with pytest.raises(ValueError, match="wanted blocks"):
        dino.loss(torch.zeros(8, 5), torch.zeros(4, 4), center)
    with pytest.raises(ValueError, match="wanted blocks"):
        dino.loss([torch.zeros(5, 4), torch.zeros(3, 4)], torch.zeros(4, 4), center)
    with pytest.raises(SettingsError, match="teacher_patch_temperature"):
        ibot.Settings(teacher_patch_temperature=0.0)
    with pytest.raises(ValueError, match="student patches"):
        ibot.patch_loss(torch.zeros(4, 8, 4), torch.zeros(4, 9, 4), torch.ones(4, 9, dtype=torch.bool), center)
    with pytest.raises(SettingsError, match="sharpen_temperature"):
        msn.Settings(sharpen_temperature=0.0)
    with pytest.raises(ValueError, match="A x B anchors"):
        msn.loss(torch.zeros(7, 4), torch.zeros(3, 4), torch.zeros(5, 4))
