"""The vMF functions against 40-digit values, scipy, quadrature and finite differences."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import gammaln, ive

from evaltk import vmf
from evaltk.prototypes import vmf_curves

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vmf_log_normalizer.json").read_text())
DIMS = sorted({row["p"] for row in GOLDEN})
# Largest |error| of the formulas over the golden kappas, in nats; one term is off by about 1 / (12 nu) at kappa = 0.
ONE_TERM = {32: 5.6e-3, 64: 2.7e-3, 128: 1.4e-3, 256: 6.6e-4, 512: 3.3e-4, 1024: 1.7e-4}
THREE_TERMS = {32: 4.9e-6, 64: 5.5e-7, 128: 6.5e-8, 256: 1e-8, 512: 2e-9, 1024: 2e-9}


def golden(dim: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """(kappa, log C_p, d log C_p / d kappa), float64."""
    rows = [row for row in GOLDEN if row["p"] == dim]
    kappa = torch.tensor([row["kappa"] for row in rows], dtype=torch.float64)
    return kappa, np.array([row["log_C"] for row in rows]), np.array([row["dlogC_dkappa"] for row in rows])


def limit_at_zero(dim: int) -> float:
    return float(gammaln(dim / 2)) - math.log(2) - dim / 2 * math.log(math.pi)


@pytest.mark.parametrize("dim", DIMS)
def test_log_normalizer_in_float64(dim: int) -> None:
    kappa, exact, _ = golden(dim)
    one, three = (vmf.log_normalizer(kappa, dim, terms=t) for t in (1, 3))
    assert one.dtype == three.dtype == torch.float64
    assert np.abs(one.numpy() - exact).max() < ONE_TERM[dim]
    assert np.abs(three.numpy() - exact).max() < THREE_TERMS[dim] < 1e-5


@pytest.mark.parametrize("dim", DIMS)
def test_log_normalizer_in_float32_under_bf16_autocast(dim: int) -> None:
    kappa, exact, _ = golden(dim)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one, three = (vmf.log_normalizer(kappa.float(), dim, terms=t) for t in (1, 3))
    assert one.dtype == three.dtype == torch.float32
    # No float32 number can be nearer than half a step: 4.9e-4 nats at |log C_p| > 8192.
    half_step = 0.5 * np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    one_error, three_error = np.abs(one.double().numpy() - exact), np.abs(three.double().numpy() - exact)
    assert (one_error < ONE_TERM[dim] + half_step).all()
    assert (three_error < THREE_TERMS[dim] + 1.01 * half_step).all()
    assert (three_error[np.abs(exact) < 128] < 1e-5).all()
    if dim >= 256:
        assert one_error.max() < 1e-3


@pytest.mark.parametrize("dim", DIMS)
def test_shifted_form(dim: int) -> None:
    kappa, exact, _ = golden(dim)
    shifted = exact - limit_at_zero(dim)
    assert np.abs(vmf.log_normalizer_shifted(kappa, dim, terms=3).numpy() - shifted).max() < 1e-5
    single = vmf.log_normalizer_shifted(kappa.float(), dim, terms=3)
    assert single.dtype == torch.float32
    small = np.abs(shifted) < 128
    assert np.abs(single.double().numpy() - shifted)[small].max() < 1e-5
    assert small.sum() >= 7


def test_shifted_form_values_of_the_specification() -> None:
    kappa = torch.tensor([1, 10, 1 / 0.07, 25, 50, 100, 200, 500], dtype=torch.float64)
    wanted = [-0.001953, -0.195153, -0.397959, -1.214927, -4.794482, -18.285571, -63.936201, -270.241466]
    np.testing.assert_allclose(vmf.log_normalizer_shifted(kappa, 256).numpy(), wanted, atol=6e-7)


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("dim", [5, 32, 256])
def test_shifted_is_the_difference(terms: int, dim: int) -> None:
    kappa = torch.tensor([0.0, 0.3, 7.0, 90.0, 4000.0], dtype=torch.float64)
    zero = vmf.log_normalizer(0.0, dim, terms=terms)
    difference = vmf.log_normalizer(kappa, dim, terms=terms) - zero
    torch.testing.assert_close(vmf.log_normalizer_shifted(kappa, dim, terms=terms), difference, rtol=1e-12, atol=1e-11)
    assert vmf.log_normalizer_shifted(kappa, dim, terms=terms)[0] == 0.0


@pytest.mark.parametrize(("dim", "relative"), [(32, 4.5e-3), (64, 1.1e-3), (256, 7e-5), (1024, 4e-6)])
def test_gradient_is_minus_the_mean_resultant_length(dim: int, relative: float) -> None:
    kappa, _, slope = golden(dim)
    for function in (vmf.log_normalizer, vmf.log_normalizer_shifted):
        leaf = kappa.float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            function(leaf, dim).sum().backward()
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.double().numpy(), slope, rtol=relative)
    np.testing.assert_allclose(-vmf.mean_resultant_length(kappa, dim).numpy(), slope, rtol=relative)
    np.testing.assert_allclose(-vmf.mean_resultant_length(kappa, dim, terms=3).numpy(), slope, rtol=relative / 100)


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("dim", [12, 256])
def test_mean_resultant_length_is_the_derivative(terms: int, dim: int) -> None:
    kappa = torch.tensor([0.0, 1e-4, 0.5, 20.0, 127.0, 3000.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(vmf.log_normalizer(kappa, dim, terms=terms).sum(), kappa)
    torch.testing.assert_close(slope, -vmf.mean_resultant_length(kappa.detach(), dim, terms=terms), rtol=1e-10, atol=0)
    leaf = torch.tensor([0.0, 3.0, 80.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: vmf.log_normalizer_shifted(k, 64, terms=terms), leaf)
    assert torch.autograd.gradgradcheck(lambda k: vmf.log_normalizer_shifted(k, 64, terms=terms), leaf)


def test_smooth_at_zero_and_even() -> None:
    kappa = torch.zeros(3, requires_grad=True)
    value = vmf.log_normalizer(kappa, 256, terms=3)
    value.sum().backward()
    assert kappa.grad is not None
    assert torch.equal(kappa.grad, torch.zeros(3))
    np.testing.assert_allclose(value.detach().numpy(), limit_at_zero(256), atol=3e-5)
    signed = torch.tensor([3.0, -3.0])
    assert vmf.log_normalizer(signed, 256)[0] == vmf.log_normalizer(signed, 256)[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(dtype: torch.dtype) -> None:
    kappa = torch.tensor([0.0, 25.0, 250.0, 512.0, 10000.0]).to(dtype)
    for function in (vmf.log_normalizer, vmf.log_normalizer_shifted, vmf.mean_resultant_length):
        out = function(kappa, 256)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, function(kappa.float(), 256), rtol=0, atol=0)
        assert torch.isfinite(out).all()


@pytest.mark.parametrize(("dim", "kappa"), [(32, 5.0), (256, 0.0), (256, 25.0), (256, 300.0)])
def test_density_integrates_to_one(dim: int, kappa: float) -> None:
    ring = math.log(2) + (dim - 1) / 2 * math.log(math.pi) - float(gammaln((dim - 1) / 2))

    def integrand(x: float) -> float:
        log_density = float(vmf.log_density(torch.tensor(x, dtype=torch.float64), kappa, dim, terms=3))
        return math.exp(log_density + ring + (dim - 3) / 2 * math.log1p(-x * x))

    total, _ = quad(integrand, -1 + 1e-9, 1 - 1e-9, points=[0.0, 0.1, 0.66], limit=200)
    assert total == pytest.approx(1.0, abs=1e-5)


def test_log_density_dtypes() -> None:
    cosine = torch.tensor([0.1, -0.9])
    assert vmf.log_density(cosine, 20.0, 256).dtype == torch.float32
    assert vmf.log_density(cosine.bfloat16(), torch.tensor(20.0), 256).dtype == torch.float32
    assert vmf.log_density(cosine.double(), 20.0, 256).dtype == torch.float64
    difference = vmf.log_density(cosine, 20.0, 256)
    assert float(difference[0] - difference[1]) == pytest.approx(20.0, abs=1e-4)


def test_responsibilities_of_a_mixture() -> None:
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(5, 3, generator=generator, dtype=torch.float64) * 2 - 1
    kappa = np.array([2.0, 9.0, 30.0])
    dim = 16
    nu = dim / 2 - 1
    density = np.empty((5, 3))
    for row in range(5):
        for k in range(3):
            constant = kappa[k] ** nu / ((2 * math.pi) ** (dim / 2) * ive(nu, kappa[k]) * math.exp(kappa[k]))
            density[row, k] = constant * math.exp(kappa[k] * float(cosine[row, k]))
    wanted = density / density.sum(1, keepdims=True)
    got = vmf.responsibilities(cosine, torch.from_numpy(kappa), dim, terms=3)
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-4)
    alike = vmf.responsibilities(cosine, torch.full((3,), 7.0, dtype=torch.float64), dim)
    torch.testing.assert_close(alike, torch.softmax(7.0 * cosine, dim=-1))
    with pytest.raises(ValueError, match="wanted cosine"):
        vmf.responsibilities(cosine, torch.ones(4), dim)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="dim >= 3, got 2"):
        vmf.log_normalizer(1.0, 2)
    with pytest.raises(ValueError, match="terms in"):
        vmf.mean_resultant_length(1.0, 256, terms=4)


def test_circle_densities() -> None:
    curves = vmf_curves.circle_densities((0.0, 1.0, 25.0, 2000.0), points=20001)
    assert curves.density.shape == (4, 20001)
    step = curves.angle[1] - curves.angle[0]  # the trapezoidal rule on a period is a plain sum
    np.testing.assert_allclose(curves.density[:, 1:].sum(axis=1) * step, 1.0, atol=1e-6)
    np.testing.assert_allclose(curves.density[0], 1 / (2 * math.pi))
    assert (curves.density[1:].argmax(axis=1) == 10000).all()
    with pytest.raises(ValueError, match="kappa >= 0"):
        vmf_curves.circle_densities((-1.0,))


def test_exact_curve_is_right_where_it_is_given() -> None:
    for dim in DIMS:
        kappa, exact, _ = golden(dim)
        curve = vmf_curves.exact_log_normalizer(kappa.numpy(), dim)
        given = ~np.isnan(curve)
        assert given.sum() >= 7  # at p = 1024 all below 100 underflow
        np.testing.assert_allclose(curve[given], exact[given], rtol=1e-12, atol=1e-9)
    assert np.isnan(vmf_curves.exact_log_normalizer(0.1, 256))
    assert vmf_curves.exact_log_normalizer(0.0, 256) == pytest.approx(344.334876, abs=1e-6)


def test_normalizer_curves() -> None:
    curves = vmf_curves.normalizer_curves(np.linspace(20, 500, 481), dims=(32, 256))
    assert curves.approximate.shape == curves.exact.shape == (2, 481)
    # One term's error over [20, 500], from 60-digit values: between -6.1e-4 and +2.9e-4 at p = 256.
    assert curves.error[1].min() == pytest.approx(-6.1e-4, abs=5e-6)
    assert curves.error[1].max() == pytest.approx(2.9e-4, abs=5e-6)
    assert curves.error[0].max() == pytest.approx(2.5e-3, abs=5e-5)
    assert (np.diff(curves.exact[1]) < 0).all()
