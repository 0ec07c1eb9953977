"""Scores of unit vectors against prototypes: linear (DINO), cosine (DINO with norm_last_layer), or vMF (DINO-vMF).

    linear  <w, y> / tau            w = g v / ||v||, g free
    cosine  <v, y> / (||v|| tau)    g unused
    vmf     <w, y> / tau + log C_p(||w|| / tau) - log C_p(0)

The constant log C_p(0) (344 at p = 256) is omitted: common to all prototypes, it cancels in every softmax, hence in the
probability centre, and shifts a logit centre by a constant, which cancels in turn. The rest keeps more
digits in float32.

Source: Govindarajan et al., ICLR 2023, Eq. 2, 5, 6, 7; dino vision_transformer.py:257-291.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaltk import vmf
from evaltk.errors import SettingsError, nearest

Kind = Literal["linear", "cosine", "vmf"]
_KINDS = ("linear", "cosine", "vmf")


def scores(y: Tensor, weight: Tensor, *, kind: Kind, temperature: float, terms: int = 1) -> Tensor:
    """Scores from effective prototypes w.

    Args:
        y: unit vectors [..., p], any float dtype.
        weight: prototypes w [K, p]; kappa = ||w|| / temperature for "vmf"; only the directions count for "cosine".
        kind: "linear", "cosine" or "vmf".
        temperature: tau > 0; 1 gives DINO's undivided logits <w, y> for "linear" and "cosine".
        terms: terms of log C_p.

    Returns:
        [..., K], already divided by the temperature; float32 (float64 if y or weight is), under autocast too: half
        precision would lose up to 2 nats at kappa = 500.

    Raises: SettingsError: unknown kind, temperature <= 0, K < 2. ValueError: p differs between y and weight.
    """
    _check(y, weight, kind, temperature)
    with torch.autocast(device_type=y.device.type, enabled=False):
        wide = weight.to(_dtype(y, weight))
        if kind == "cosine":
            return _products(y, F.normalize(wide, dim=1), None, temperature)
        shift = None
        if kind == "vmf":
            kappa = torch.linalg.vector_norm(wide, dim=1) / temperature
            shift = vmf.log_normalizer_shifted(kappa, weight.shape[1], terms=terms)
        return _products(y, wide, shift, temperature)


def weight_norm_scores(
    y: Tensor, weight_g: Tensor, weight_v: Tensor, *, kind: Kind, temperature: float, terms: int = 1
) -> Tensor:
    """Scores from weight-normed parameters; equal to `scores` of w = g v / ||v||.

    kappa is taken from g alone (||w|| = |g|, and log C_p is even), so log C_p sends no gradient, not even rounding
    noise, to v.

    Args:
        y: unit vectors [..., p], any float dtype.
        weight_g: signed norms g [K, 1]; unused for "cosine".
        weight_v: v [K, p].
        kind, temperature, terms: as in `scores`.

    Returns, raises: as `scores`. ValueError also if weight_g is not [K, 1].
    """
    _check(y, weight_v, kind, temperature)
    if weight_g.shape != (weight_v.shape[0], 1):
        raise ValueError(f"wanted weight_g {(weight_v.shape[0], 1)}, got {tuple(weight_g.shape)}")
    with torch.autocast(device_type=y.device.type, enabled=False):
        dtype = _dtype(y, weight_v)
        unit = F.normalize(weight_v.to(dtype), dim=1)
        if kind == "cosine":
            return _products(y, unit, None, temperature)
        g = weight_g.to(dtype)
        shift = None
        if kind == "vmf":
            shift = vmf.log_normalizer_shifted(g.squeeze(1) / temperature, weight_v.shape[1], terms=terms)
        return _products(y, g * unit, shift, temperature)


class PrototypeLayer(nn.Module):
    """The last layer of a DINO head, with the original's parameter names: weight_g [K, 1] and weight_v [K, p].

    Both are plain parameters (no weight_norm hook), so the layer can be copied and saved like any other, and g and v
    are averaged separately by the teacher.

    Args:
        dim: p, the width of the bottleneck.
        num_prototypes: K, >= 2.
        kind: "linear", "cosine" or "vmf".
        generator: for weight_v; None for torch's default stream.

    Raises: SettingsError: unknown kind, or K < 2.
    """

    def __init__(
        self, dim: int, num_prototypes: int, kind: Kind = "linear", *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        check_kind(kind)
        check_num_prototypes(num_prototypes)
        self.kind: Kind = kind
        # For "cosine" the original keeps g at 1 and only stops its gradient (norm_last_layer).
        self.weight_g = nn.Parameter(torch.ones(num_prototypes, 1), requires_grad=kind != "cosine")
        bound = dim**-0.5  # torch's default for a Linear of `dim` inputs
        self.weight_v = nn.Parameter(torch.empty(num_prototypes, dim).uniform_(-bound, bound, generator=generator))

    def forward(self, y: Tensor, *, temperature: float) -> Tensor:
        """Scores [..., K] of unit vectors y [..., p], divided by `temperature`; see `weight_norm_scores`."""
        return weight_norm_scores(y, self.weight_g, self.weight_v, kind=self.kind, temperature=temperature)

    @property
    def weight(self) -> Tensor:
        """The effective prototypes w [K, p]; unit rows for "cosine"."""
        unit = F.normalize(self.weight_v, dim=1)
        return unit if self.kind == "cosine" else self.weight_g * unit

    def extra_repr(self) -> str:
        return f"{self.weight_v.shape[1]}, {self.weight_v.shape[0]}, kind={self.kind!r}"


def check_temperature(temperature: float, where: str = "temperature") -> None:
    """Raises: SettingsError: a temperature <= 0."""
    if not temperature > 0.0:
        raise SettingsError(wanted="a temperature > 0", got=str(temperature), where=where, do="use 0.1 or 0.04 to 0.07")


def check_num_prototypes(num_prototypes: int) -> None:
    """Raises: SettingsError: fewer than two prototypes, whose softmax would always be 1."""
    if num_prototypes < 2:
        raise SettingsError(
            wanted="at least 2 prototypes", got=str(num_prototypes), where="num_prototypes", do="raise num_prototypes"
        )


def check_kind(kind: str) -> None:
    """Raises: SettingsError: unknown kind of scoring."""
    if kind not in _KINDS:
        raise SettingsError(
            wanted=nearest(str(kind), _KINDS), got=repr(kind), where="scoring", do="use linear, cosine or vmf"
        )


def _check(y: Tensor, weight: Tensor, kind: str, temperature: float) -> None:
    check_kind(kind)
    check_temperature(temperature)
    check_num_prototypes(weight.shape[0])
    if y.shape[-1] != weight.shape[1]:
        raise ValueError(f"wanted y [..., {weight.shape[1]}], got {tuple(y.shape)}")


def _dtype(y: Tensor, weight: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(y.dtype, weight.dtype), torch.float32)


def _products(y: Tensor, weight: Tensor, shift: Tensor | None, temperature: float) -> Tensor:
    """<weight, y> / temperature + shift, [..., K]; dividing the small factor leaves one [..., K] in memory."""
    bias = None if shift is None else shift.to(weight.dtype)
    return F.linear(y.to(weight.dtype), weight / temperature, bias)
