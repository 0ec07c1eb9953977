"""Scores against plain loops, finite differences, and what must hold between the three kinds."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.special import ive
from torch import Tensor
from torch.nn import functional as F

from evaltk import vmf
from evaltk.errors import SettingsError
from pretrain import centering, prototypes
from pretrain.methods import dino


def parts(
    rows: int, dim: int, num_prototypes: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """(y unit [rows, dim], g [K, 1] in 0.4 to 1.6, v [K, dim])."""
    generator = torch.Generator().manual_seed(seed)
    y = F.normalize(torch.randn(rows, dim, generator=generator, dtype=dtype), dim=1)
    g = 0.4 + 1.2 * torch.rand(num_prototypes, 1, generator=generator, dtype=dtype)
    return y, g, torch.randn(num_prototypes, dim, generator=generator, dtype=dtype)


def vmf_loss(y: Tensor, g: Tensor, v: Tensor, kind: prototypes.Kind) -> tuple[Tensor, Tensor]:
    """(DINO loss over three views, new centre), both networks sharing g and v; centring in probability space."""
    student = prototypes.weight_norm_scores(y, g, v, kind=kind, temperature=0.1)
    teacher = prototypes.weight_norm_scores(y.detach()[:4], g.detach(), v.detach(), kind=kind, temperature=0.05)
    center = centering.update(torch.zeros(len(v), dtype=y.dtype), teacher.flip(0), kind="probability", momentum=0.5)
    loss = dino.loss(student, teacher, center, student_temperature=1.0, teacher_temperature=1.0)
    return loss, centering.update(center, teacher, kind="probability")


def test_scores_from_a_plain_loop() -> None:
    dim, temperature = 24, 0.07
    y, g, v = parts(3, dim, 5)
    nu = dim / 2 - 1
    exact = np.empty((3, 5))
    linear = np.empty((3, 5))
    for b in range(3):
        for k in range(5):
            w = [float(g[k]) * float(x) / math.sqrt(sum(float(z) ** 2 for z in v[k])) for x in v[k]]
            kappa = math.sqrt(sum(x * x for x in w)) / temperature
            log_c = nu * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - math.log(ive(nu, kappa)) - kappa
            linear[b, k] = sum(x * float(z) for x, z in zip(w, y[b], strict=True)) / temperature
            exact[b, k] = linear[b, k] + log_c
    got = prototypes.weight_norm_scores(y, g, v, kind="linear", temperature=temperature)
    np.testing.assert_allclose(got.numpy(), linear, rtol=1e-12)
    scores = prototypes.weight_norm_scores(y, g, v, kind="vmf", temperature=temperature, terms=3)
    p = torch.softmax(scores, dim=1).numpy()
    wanted = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    np.testing.assert_allclose(p, wanted, atol=1e-5)
    # The layer leaves out only the constant log C_p(0).
    left_out = exact - scores.numpy()
    assert np.ptp(left_out) < 1e-4
    assert left_out.mean() == pytest.approx(math.lgamma(dim / 2) - math.log(2) - dim / 2 * math.log(math.pi), abs=1e-4)


@pytest.mark.parametrize("kind", ["linear", "cosine", "vmf"])
def test_weight_norm_and_effective_weight_agree(kind: prototypes.Kind) -> None:
    y, g, v = parts(4, 16, 6)
    g[0] = -g[0]  # a norm may have either sign; kappa is |g| / tau
    w = g * F.normalize(v, dim=1)
    a = prototypes.weight_norm_scores(y, g, v, kind=kind, temperature=0.1)
    b = prototypes.scores(y, w, kind=kind, temperature=0.1)
    if kind == "cosine":  # the direction alone counts, and w's is the opposite of v's for a negative norm
        a, b = a[:, 1:], b[:, 1:]
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_vmf_with_unit_norms_is_the_cosine_cell() -> None:
    y, _, v = parts(10, 32, 40, dtype=torch.float32)
    runs = []
    for kind in ("vmf", "cosine"):
        leaves = [y.clone().requires_grad_(), v.clone().requires_grad_()]
        loss, center = vmf_loss(leaves[0], torch.ones(40, 1), leaves[1], kind)
        loss.backward()
        runs.append((loss.detach(), center, leaves[0].grad, leaves[1].grad))
    for ours, theirs in zip(*runs, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-6 * max(1.0, float(theirs.abs().max()))


def test_free_norms_do_change_the_vmf_loss() -> None:
    y, g, v = parts(10, 32, 40)
    assert abs(float(vmf_loss(y, g, v, "vmf")[0] - vmf_loss(y, g, v, "linear")[0])) > 1e-3


def test_gradient_of_the_norm_by_finite_differences() -> None:
    y, g, v = parts(10, 32, 12)
    leaf = g.clone().requires_grad_()
    vmf_loss_student(y, leaf, v).backward()
    assert leaf.grad is not None
    step = 1e-6
    for k in range(12):
        up, down = g.clone(), g.clone()
        up[k] += step
        down[k] -= step
        slope = (vmf_loss_student(y, up, v) - vmf_loss_student(y, down, v)) / (2 * step)
        assert float(leaf.grad[k]) == pytest.approx(float(slope), rel=1e-6, abs=1e-8)


def vmf_loss_student(y: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """DINO-vMF loss of the student's g and v against a fixed teacher."""
    _, other_g, other_v = parts(10, 32, 12, seed=5)
    teacher = prototypes.weight_norm_scores(y[:4], other_g, other_v, kind="vmf", temperature=0.04)
    student = prototypes.weight_norm_scores(y, g, v, kind="vmf", temperature=0.1)
    center = torch.zeros(12, dtype=y.dtype)
    return dino.loss(student, teacher, center, student_temperature=1.0, teacher_temperature=1.0)


def test_directions_get_no_gradient_from_the_normaliser() -> None:
    y, g, v = parts(5, 16, 8)
    grads = []
    for kind in ("vmf", "linear"):
        leaf = v.clone().requires_grad_()
        scores = prototypes.weight_norm_scores(y, g, leaf, kind=kind, temperature=0.1)
        # The same weights on both, so that only a path through log C_p could tell them apart.
        (scores * torch.linspace(-1, 1, 8, dtype=y.dtype)).sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(grads[0], grads[1])


def test_a_prototype_gains_from_growing_only_beyond_the_mean_resultant_length() -> None:
    y, g, v = parts(1, 256, 9)
    cosine = (F.normalize(v, dim=1) @ y[0]).numpy()
    leaf = g.clone().requires_grad_()
    prototypes.weight_norm_scores(y, leaf, v, kind="vmf", temperature=0.1).sum().backward()
    assert leaf.grad is not None
    threshold = vmf.mean_resultant_length(g.squeeze(1) / 0.1, 256).numpy()
    np.testing.assert_allclose(leaf.grad.squeeze(1).numpy() * 0.1, cosine - threshold, rtol=1e-9, atol=1e-12)


def test_float32_under_autocast() -> None:
    y, g, v = (t.float() for t in parts(4, 256, 50))
    g = 35 * g  # kappa up to 560
    plain = prototypes.weight_norm_scores(y, g, v, kind="vmf", temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = prototypes.weight_norm_scores(y, g, v, kind="vmf", temperature=0.1)
        effective = prototypes.scores(y, g * F.normalize(v, dim=1), kind="vmf", temperature=0.1)
    assert cast.dtype == effective.dtype == torch.float32
    assert torch.equal(cast, plain)
    torch.testing.assert_close(effective, plain, rtol=1e-5, atol=1e-3)
    assert prototypes.weight_norm_scores(y.bfloat16(), g, v, kind="linear", temperature=0.1).dtype == torch.float32


def test_layer_parameters() -> None:
    layer = prototypes.PrototypeLayer(64, 300, "vmf", generator=torch.Generator().manual_seed(0))
    assert {k: tuple(t.shape) for k, t in layer.state_dict().items()} == {"weight_g": (300, 1), "weight_v": (300, 64)}
    assert torch.equal(layer.weight_g, torch.ones(300, 1))
    assert float(layer.weight_v.detach().abs().max()) <= 1 / 8
    # A uniform distribution on +-1/sqrt(p), as torch.nn.Linear's.
    reference = torch.nn.Linear(64, 4000).weight.detach()
    assert float(layer.weight_v.detach().std()) == pytest.approx(float(reference.std()), rel=0.03)
    assert layer.weight_g.requires_grad
    cosine = prototypes.PrototypeLayer(64, 300, "cosine")
    assert not cosine.weight_g.requires_grad
    assert cosine.weight_v.requires_grad


def test_layer_equals_torchs_weight_norm() -> None:
    layer = prototypes.PrototypeLayer(16, 10, "linear")
    linear = torch.nn.Linear(16, 10, bias=False)
    reference = torch.nn.utils.parametrizations.weight_norm(linear)
    with torch.no_grad():
        layer.weight_g.uniform_(0.5, 2.0)
        reference.parametrizations.weight.original0.copy_(layer.weight_g)
        reference.parametrizations.weight.original1.copy_(layer.weight_v)
    y = F.normalize(torch.randn(5, 16), dim=1)
    torch.testing.assert_close(layer(y, temperature=1.0), reference(y), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.weight, reference.weight, rtol=1e-6, atol=1e-7)


def test_layer_copies_and_keeps_leading_axes() -> None:
    layer = prototypes.PrototypeLayer(16, 10, "vmf")
    teacher = copy.deepcopy(layer)
    y = F.normalize(torch.randn(2, 7, 16), dim=-1)
    assert teacher(y, temperature=0.04).shape == (2, 7, 10)
    torch.testing.assert_close(teacher(y, temperature=0.04), layer(y, temperature=0.04))


@pytest.mark.parametrize(
    ("scoring", "kind", "wanted"),
    [
        ("linear", "logit", (1.0, 0.04)),
        ("cosine", "logit", (1.0, 0.04)),
        ("vmf", "logit", (0.04, 1.0)),
        ("linear", "probability", (0.04, 1.0)),
        ("cosine", "probability", (0.04, 1.0)),
        ("vmf", "probability", (0.04, 1.0)),
    ],
)
def test_where_the_temperature_divides(
    scoring: prototypes.Kind, kind: centering.Kind, wanted: tuple[float, float]
) -> None:
    assert dino.split_temperature(0.04, scoring=scoring, centering_kind=kind) == wanted


def test_scaled_scores_with_temperature_one_are_the_same_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(10, 30, generator=generator), torch.randn(4, 30, generator=generator)
    center = torch.randn(30, generator=generator)
    late = dino.loss(student, teacher, center, student_temperature=0.1, teacher_temperature=0.5)
    early = dino.loss(student / 0.1, teacher / 0.5, center / 0.5, student_temperature=1.0, teacher_temperature=1.0)
    torch.testing.assert_close(late, early, rtol=1e-6, atol=0)


def test_wrong_arguments() -> None:
    y, g, v = parts(2, 8, 4)
    with pytest.raises(SettingsError, match="wanted a temperature > 0"):
        prototypes.scores(y, v, kind="linear", temperature=0.0)
    with pytest.raises(SettingsError, match="did you mean 'cosine'"):
        prototypes.weight_norm_scores(y, g, v, kind="cosin", temperature=0.1)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="at least 2 prototypes; got 1"):
        prototypes.PrototypeLayer(8, 1)
    with pytest.raises(SettingsError, match="at least 2 prototypes"):
        prototypes.scores(y, v[:1], kind="linear", temperature=0.1)
    with pytest.raises(ValueError, match=r"wanted y \[..., 8\]"):
        prototypes.scores(y[:, :7], v, kind="linear", temperature=0.1)
    with pytest.raises(ValueError, match="wanted weight_g"):
        prototypes.weight_norm_scores(y, g.squeeze(1), v, kind="linear", temperature=0.1)


def tf32(x: Tensor) -> Tensor:
    """Rounded to the ten bits of mantissa that a tensor core reads of a float32."""
    return ((x.view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


@pytest.mark.parametrize("kappa", [50.0, 250.0, 1000.0])
def test_no_product_of_fewer_bits_keeps_the_loss(kappa: float) -> None:
    """Why scores are float32 products: those of bf16 or TF32 move loss and gradients far beyond float32's rounding."""
    draw = torch.Generator().manual_seed(0)
    spread = kappa**-0.5 * torch.randn(512, 64, generator=draw)  # prototypes that compete for the same images
    w, y, towards = (
        F.normalize(F.one_hot(torch.tensor(0), 64) + part) for part in (spread, spread[:64] * 0.5, -spread[:64])
    )
    target = torch.softmax(kappa * towards.double() @ w.double().T, dim=1)

    def moved(left: Tensor, right: Tensor) -> tuple[float, float]:
        """How far loss and gradient by the scores are from those of exact products, at most."""
        exact, rounded = kappa * y.double() @ w.double().T, (left @ right.T).double()
        losses = [-(target * torch.log_softmax(s, dim=1)).sum(1) for s in (exact, rounded)]
        gradients = [torch.softmax(s, dim=1) - target for s in (exact, rounded)]
        return float((losses[0] - losses[1]).abs().max()), float((gradients[0] - gradients[1]).abs().max())

    own = moved(y, kappa * w)
    for fewer in (moved(y.bfloat16().float(), (kappa * w).bfloat16().float()), moved(tf32(y), tf32(kappa * w))):
        assert all(f > 100 * o for f, o in zip(fewer, own, strict=True)), (kappa, own, fewer)
