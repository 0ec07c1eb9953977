"""The von Mises-Fisher distribution on the unit sphere in R^p: log-normaliser, mean resultant length, densities.

The density of a unit vector y under mean direction mu (unit) and concentration kappa >= 0 is
``C_p(kappa) exp(kappa <mu, y>)`` with ``log C_p = nu log kappa - (p/2) log 2 pi - log I_nu(kappa)``, ``nu = p/2 - 1``.
The Bessel function is approximated by ``terms`` terms of its uniform expansion for large order (DLMF 10.41.3). The
powers of kappa cancel analytically, which leaves, with ``s = sqrt(kappa^2 + nu^2)`` and ``t = nu / s``,

    log C_p = nu log(nu + s) - s + log(s)/2 - (p - 1)/2 log 2 pi - log(1 + U_1(t)/nu + U_2(t)/nu^2)

an even function, smooth at kappa = 0. Largest errors in nats over kappa in [0, 1e4], against 40-digit values:

    p       32      64      128     256     512     1024
    terms=1 5.6e-3  2.7e-3  1.3e-3  6.6e-4  3.3e-4  1.6e-4     (about 1 / (12 nu), reached at kappa = 0)
    terms=2 1.4e-4  3.4e-5  7.7e-6  1.9e-6  4.8e-7  1.2e-7
    terms=3 4.8e-6  5.4e-7  6.4e-8  7.9e-9  9.7e-10 1.2e-10

These hold for float64 input and output. The computation is always float64 and is rounded once, to the output dtype, so
float32 results are off by up to another half float32 ulp: 1.5e-5 nats for |log C_p| in 256 to 512, 4.9e-4 nats for 8192
to 16384 (kappa = 1e4). Where that matters, pass float64, or use the shifted form, which is small when kappa is.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Eq. 2, Eq. 5 and A.2 (one term; p = 256).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG_2PI = math.log(2.0 * math.pi)


def log_normalizer(kappa: Tensor | float, dim: int, *, terms: int = 1) -> Tensor:
    """log C_p(kappa), the logarithm of the vMF normalising constant.

    Decreasing in kappa (for p >= 5) but not negative: about +344 at p = 256 and kappa = 0.

    Args:
        kappa: concentration [...], >= 0 (only |kappa| matters, so a signed weight-norm gain may be passed unchanged).
        dim: p, the dimension of the space the sphere lies in, >= 3.
        terms: terms of the expansion, 1 (the paper's), 2 or 3.

    Returns:
        log C_p [...] in nats; float64 for float64 (or a plain number), else float32, under autocast too.
        Its gradient is minus `mean_resultant_length` of the same terms, 0 at kappa = 0.

    Raises: ValueError: dim < 3 or terms not in {1, 2, 3}.
    """
    nu = _order(dim, terms)
    wide, dtype = _widen(kappa)
    s = torch.sqrt(wide * wide + nu * nu)
    value = nu * torch.log(nu + s) - s + 0.5 * torch.log(s) - 0.5 * (dim - 1) * _LOG_2PI
    return (value - _log_series(nu / s, nu, terms)).to(dtype)


def log_normalizer_shifted(kappa: Tensor | float, dim: int, *, terms: int = 1) -> Tensor:
    """g(kappa) = log C_p(kappa) - log C_p(0), both with `terms` terms, for a softmax over components.

    The constant cancels in the softmax; since log C_p(0) is large (344 at p = 256) and g small, g is more precise in
    float32. Exactly 0 at kappa = 0 and decreasing (for p >= 5).

    Args, returns, raises: as `log_normalizer`.
    """
    nu = _order(dim, terms)
    wide, dtype = _widen(kappa)
    s = torch.sqrt(wide * wide + nu * nu)
    d = wide * wide / (s + nu)  # s - nu without cancellation
    value = nu * torch.log1p(d / (2.0 * nu)) - d + 0.5 * torch.log1p(d / nu)
    series = _log_series(nu / s, nu, terms) - _log_series(torch.ones_like(s), nu, terms)
    return (value - series).to(dtype)


def mean_resultant_length(kappa: Tensor | float, dim: int, *, terms: int = 1) -> Tensor:
    """A_p(kappa) = I_{p/2}(kappa) / I_{p/2-1}(kappa) = -d log C_p / d kappa, the length of the mean of y.

    A component's score increases with its kappa exactly where cos(theta) > A_p(kappa) (A.1 of the paper).

    Args:
        kappa: concentration [...], >= 0 (an odd function for negative ones).
        dim: p, >= 3.
        terms: of the expansion of log C_p that is differentiated, 1, 2 or 3.

    Returns:
        A_p [...] in [0, 1), dtype as in `log_normalizer`. Its relative error at p = 256 is 6.2e-5, 5.3e-7, 4.2e-9 for
        1, 2, 3 terms; at p = 32 4.4e-3, 3.2e-4, 2.2e-5.

    Raises: ValueError: dim < 3 or terms not in {1, 2, 3}.
    """
    nu = _order(dim, terms)
    wide, dtype = _widen(kappa)
    s = torch.sqrt(wide * wide + nu * nu)
    t = nu / s
    slope = torch.zeros_like(t)  # dP/dt of the series P(t)
    if terms >= 2:
        slope = slope + (3.0 - 15.0 * t**2) / (24.0 * nu)
    if terms >= 3:
        slope = slope + (162.0 * t - 1848.0 * t**3 + 2310.0 * t**5) / (1152.0 * nu**2)
    from_series = slope / torch.exp(_log_series(t, nu, terms)) * (-nu * wide / s**3)
    return (wide / (nu + s) - wide / (2.0 * s * s) + from_series).to(dtype)


def log_density(cosine: Tensor, kappa: Tensor | float, dim: int, *, terms: int = 1) -> Tensor:
    """log of the vMF density at points with cosine similarity `cosine` to the mean direction.

    Args:
        cosine: <mu, y> [...] in [-1, 1].
        kappa: concentration [...], broadcast against cosine.
        dim: p, >= 3.
        terms: as in `log_normalizer`.

    Returns:
        kappa * cosine + log C_p(kappa) [...] in nats with respect to the surface measure of the sphere; float64 if
        cosine or kappa is a float64 tensor, else float32.

    Raises: ValueError: dim < 3 or terms not in {1, 2, 3}.
    """
    wide_cosine, dtype = _widen(cosine)
    wide_kappa, kappa_dtype = _widen(kappa)
    if isinstance(kappa, Tensor):
        dtype = torch.promote_types(dtype, kappa_dtype)
    return (wide_kappa * wide_cosine + log_normalizer(wide_kappa, dim, terms=terms)).to(dtype)


def responsibilities(cosine: Tensor, kappa: Tensor, dim: int, *, terms: int = 1) -> Tensor:
    """Posterior probabilities of the components of an equally weighted vMF mixture.

    Args:
        cosine: <mu_k, y_b> [..., K] in [-1, 1].
        kappa: concentrations [K].
        dim: p, >= 3.
        terms: as in `log_normalizer`.

    Returns:
        softmax_k(kappa_k cosine_k + log C_p(kappa_k)) [..., K]; rows sum to 1; float64 if cosine or kappa is, else
        float32.

    Raises: ValueError: dim < 3, terms not in {1, 2, 3}, or K differs between cosine and kappa.
    """
    if kappa.ndim != 1 or cosine.shape[-1] != kappa.shape[0]:
        raise ValueError(f"wanted cosine [..., K] and kappa [K], got {tuple(cosine.shape)} and {tuple(kappa.shape)}")
    shift = log_normalizer_shifted(kappa, dim, terms=terms)
    dtype = torch.promote_types(shift.dtype, torch.float64 if cosine.dtype == torch.float64 else torch.float32)
    scores = kappa.to(dtype) * cosine.to(dtype) + shift.to(dtype)
    return torch.softmax(scores, dim=-1)


def _order(dim: int, terms: int) -> float:
    """nu = p/2 - 1, the order of the Bessel function."""
    if dim < 3:
        raise ValueError(f"wanted dim >= 3, got {dim}: the expansion is in 1/nu with nu = dim/2 - 1")
    if terms not in (1, 2, 3):
        raise ValueError(f"wanted terms in {{1, 2, 3}}, got {terms}")
    return dim / 2.0 - 1.0


def _widen(value: Tensor | float) -> tuple[Tensor, torch.dtype]:
    """(value in the dtype to compute in, dtype to return); autocast never touches float64."""
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=torch.float64)
    promised = torch.float32 if value.dtype in (torch.float32, torch.float16, torch.bfloat16) else torch.float64
    work = torch.float32 if value.device.type == "mps" else torch.float64  # MPS has no float64
    return value.to(work), promised


def _log_series(t: Tensor, nu: float, terms: int) -> Tensor:
    """log(1 + U_1(t)/nu + U_2(t)/nu^2) truncated after `terms` terms, t in (0, 1]."""
    series = torch.zeros_like(t)
    if terms >= 2:
        series = series + (3.0 * t - 5.0 * t**3) / (24.0 * nu)
    if terms >= 3:
        series = series + (81.0 * t**2 - 462.0 * t**4 + 385.0 * t**6) / (1152.0 * nu**2)
    return torch.log1p(series)
