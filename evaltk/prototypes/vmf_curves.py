"""Curves of the paper's figures on the vMF distribution, as numpy arrays.

Densities on the circle for several concentrations, and log C_p approximated and with the exact Bessel function.
Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Figures 3, 4, 5 (which state no numbers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, i0e, ive

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CircleDensities:
    """vMF densities on the circle (p = 2), mean direction at angle 0.

    angle [N] in radians, [-pi, pi]; kappa [C]; density [C, N] per radian, each row integrating to 1.
    """

    angle: Array
    kappa: Array
    density: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizerCurves:
    """log C_p as a function of kappa for several p, in nats.

    kappa [N]; dims (P values of p); approximate, exact, error = approximate - exact: [P, N]. exact and error are NaN
    where the exponentially scaled Bessel function underflows in float64 (small kappa at large p).
    """

    kappa: Array
    dims: tuple[int, ...]
    approximate: Array
    exact: Array
    error: Array


def circle_densities(kappa: Sequence[float] = (0.0, 1.0, 5.0, 25.0), *, points: int = 361) -> CircleDensities:
    """Density as a function of the angle for each concentration (Figure 3): exp(kappa cos a) / (2 pi I_0(kappa)).

    Args:
        kappa: concentrations, each >= 0.
        points: number of angles, evenly spaced over [-pi, pi], ends included.

    Raises: ValueError: a negative kappa, or fewer than two points.
    """
    values = _concentrations(kappa)
    if points < 2:
        raise ValueError(f"wanted at least 2 points, got {points}")
    angle = np.linspace(-math.pi, math.pi, points)
    column = values[:, None]
    density = np.exp(column * (np.cos(angle)[None, :] - 1.0)) / (2.0 * math.pi * i0e(column))  # scaled: no overflow
    return CircleDensities(angle=angle, kappa=values, density=density)


def exact_log_normalizer(kappa: npt.ArrayLike, dim: int) -> Array:
    """log C_p(kappa) from scipy's scaled Bessel function, NaN where that underflows to 0.

    Args:
        kappa: concentration [...], >= 0.
        dim: p, >= 2.

    Returns:
        log C_p [...] in nats; at kappa = 0 the limit log Gamma(p/2) - log 2 - (p/2) log pi.

    Raises: ValueError: dim < 2 or a negative kappa.
    """
    if dim < 2:
        raise ValueError(f"wanted dim >= 2, got {dim}")
    values = _concentrations(kappa)
    nu = dim / 2.0 - 1.0
    scaled = np.asarray(ive(nu, values))  # I_nu(kappa) exp(-kappa)
    # Denormal numbers have lost digits long before they underflow to 0.
    valid = (scaled >= np.finfo(np.float64).tiny) & (values > 0.0)
    safe_kappa, safe_scaled = np.where(valid, values, 1.0), np.where(valid, scaled, 1.0)
    value = nu * np.log(safe_kappa) - 0.5 * dim * math.log(2.0 * math.pi) - (np.log(safe_scaled) + safe_kappa)
    limit = float(gammaln(dim / 2.0)) - math.log(2.0) - 0.5 * dim * math.log(math.pi)
    return np.where(valid, value, np.where(values == 0.0, limit, np.nan))


def normalizer_curves(
    kappa: npt.ArrayLike | None = None, *, dims: Sequence[int] = (32, 64, 128, 256, 512, 1024), terms: int = 1
) -> NormalizerCurves:
    """log C_p by the approximation and exactly, and their difference (Figures 4 and 5).

    Args:
        kappa: concentrations [N], >= 0; default 500 values from 1 to 500, evenly spaced.
        dims: values of p, each >= 3.
        terms: terms of the approximation, as in `evaltk.vmf.log_normalizer`.

    Raises: ValueError: a negative kappa, p < 3, or terms not in {1, 2, 3}.
    """
    import torch

    from evaltk import vmf

    values = np.linspace(1.0, 500.0, 500) if kappa is None else _concentrations(kappa)
    tensor = torch.from_numpy(values)
    approximate = np.stack([vmf.log_normalizer(tensor, p, terms=terms).numpy() for p in dims])
    exact = np.stack([exact_log_normalizer(values, p) for p in dims])
    return NormalizerCurves(
        kappa=values, dims=tuple(dims), approximate=approximate, exact=exact, error=approximate - exact
    )


def _concentrations(kappa: npt.ArrayLike) -> Array:
    """A float64 copy of kappa, all >= 0."""
    values = np.array(kappa, dtype=np.float64)
    if not (values >= 0.0).all():
        raise ValueError(f"wanted kappa >= 0, got a smallest value of {values.min()}")
    return values
