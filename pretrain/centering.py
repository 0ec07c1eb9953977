"""The teacher's centre: an exponential moving average of the mean logit (Eq. 8) or of the log-mean-probability (Eq. 9).

Rows are summed in chunks and over all processes before a single division and logarithm: neither the number of chunks
nor the number of processes changes the result beyond rounding.

Source: Govindarajan et al., ICLR 2023, Eq. 8 and Eq. 9; dino main_dino.py:406-416; ibot main_ibot.py:559-572.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from evaltk import distributed
from evaltk.errors import SettingsError, nearest

Kind = Literal["logit", "probability"]
_KINDS = ("logit", "probability")
_CHUNK_ELEMENTS = 2**24  # 64 MiB of float32 at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowSums:
    """This process's sums over `rows` rows of teacher logits.

    kind "logit": total [K] = sum of logits, peak is unused. kind "probability": total [K] = sum of
    exp(log softmax - peak) with peak [K] the largest log-probability of each component so far. total is float64.
    """

    kind: Kind
    peak: Tensor
    total: Tensor
    rows: int


def update(
    center: Tensor,
    logits: Tensor | RowSums,
    *,
    kind: Kind,
    momentum: float = 0.9,
    eps: float | None = None,
    chunk_elements: int = _CHUNK_ELEMENTS,
) -> Tensor:
    """The new centre, momentum x centre + (1 - momentum) x the batch's centre; call it after the loss used the old one.

    Args:
        center: the centre so far, [K] (or [1, K], [1, 1, K]); starts at 0.
        logits: this process's uncentred teacher scores [..., K] (every axis but the last is rows), in any float dtype,
            or their sums from `accumulate`. Eq. 8 of the original DINO takes <w, y>; the vMF forms take the scores
            after division by the temperature, log C_p included.
        kind: "logit" (Eq. 8: mean of the logits) or "probability" (Eq. 9: log of the mean of softmax(logits)).
        momentum: in [0, 1].
        eps: added to the mean probability before the logarithm; None (the default) adds nothing.
        chunk_elements: how many logits may exist as float32 log-probabilities at a time.

    Returns:
        The new centre, shaped as `center`, float32 (float64 if center is), detached, the same on every process.

    Raises:
        SettingsError: unknown kind, momentum outside [0, 1], eps <= 0, or fewer than two prototypes.
        ValueError: no rows, K differs between centre and logits, or sums of the other kind.
    """
    if not 0.0 <= momentum <= 1.0:
        raise SettingsError(wanted="a number in [0, 1]", got=str(momentum), where="center momentum", do="use 0.9")
    sums = logits
    if isinstance(sums, Tensor):
        sums = accumulate(sums, kind=kind, chunk_elements=chunk_elements)
    elif sums.kind != kind:
        raise ValueError(f"wanted sums of kind {kind!r}, got {sums.kind!r}: accumulate with the same kind")
    if center.numel() != sums.total.numel():
        raise ValueError(f"wanted a centre of {sums.total.numel()} elements, got shape {tuple(center.shape)}")
    batch = batch_center(sums, eps=eps).reshape(center.shape)
    mixed = center.detach().double() * momentum + batch * (1.0 - momentum)
    return mixed.to(torch.promote_types(center.dtype, torch.float32))


@torch.no_grad()
def accumulate(
    logits: Tensor, *, kind: Kind, previous: RowSums | None = None, chunk_elements: int = _CHUNK_ELEMENTS
) -> RowSums:
    """Add rows of teacher logits to earlier sums, without communication between processes.

    iBOT's patch centre has 2 x batch x 196 rows: pass them in as many calls as memory requires, then `update`.

    Args:
        logits: uncentred teacher scores [..., K].
        kind: as in `update`.
        previous: the sums so far, of the same kind and K; None to start from zero.
        chunk_elements: how many logits may exist as float32 log-probabilities at a time.

    Raises: SettingsError: unknown kind, or fewer than two prototypes. ValueError: previous of another kind or K.
    """
    check_kind(kind)
    num_prototypes = logits.shape[-1]
    if num_prototypes < 2:
        raise SettingsError(
            wanted="at least 2 prototypes", got=str(num_prototypes), where="centering", do="raise num_prototypes"
        )
    rows = logits.detach().reshape(-1, num_prototypes)
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    if previous is None:
        peak = torch.full((num_prototypes,), -math.inf, dtype=wide, device=rows.device)
        total = torch.zeros(num_prototypes, dtype=torch.float64, device=rows.device)
        previous = RowSums(kind=kind, peak=peak, total=total, rows=0)
    if previous.kind != kind or previous.total.numel() != num_prototypes:
        raise ValueError(
            f"wanted sums of kind {kind!r} over {num_prototypes} prototypes, "
            f"got {previous.kind!r} over {previous.total.numel()}: start anew with previous=None"
        )
    peak, total = previous.peak, previous.total
    for chunk in rows.split(max(1, chunk_elements // num_prototypes)):
        if kind == "logit":
            total = total + chunk.to(wide).sum(0)
        else:
            peak, total = _add_probabilities(chunk, peak, total, wide)
    return RowSums(kind=kind, peak=peak, total=total, rows=previous.rows + rows.shape[0])


@torch.no_grad()
def batch_center(sums: RowSums, *, eps: float | None = None) -> Tensor:
    """The centre of one batch over all processes [K], float64: mean logit, or log-mean-probability.

    Probabilities, never their logarithms, are averaged over processes: MAX of the peaks, then SUM of the sums rescaled
    to it. Components far below every row's maximum stay finite, where log(mean(softmax)) would give -inf.

    Raises: SettingsError: eps <= 0. ValueError: no rows.
    """
    if sums.rows == 0:
        raise ValueError("wanted at least one row of teacher logits, got none")
    if eps is not None and not eps > 0.0:
        raise SettingsError(wanted="eps > 0 or none", got=str(eps), where="center eps", do="leave eps out")
    total, peak = sums.total, sums.peak
    if sums.kind == "probability":
        peak = distributed.all_reduce(sums.peak, op="max")
        total = total * torch.exp((sums.peak - peak).double())
    # One exchange for the sums and their number of rows.
    packed = distributed.all_reduce(torch.cat([total, total.new_full((1,), float(sums.rows))]), op="sum")
    mean = packed[:-1] / packed[-1]
    if sums.kind == "logit":
        return mean
    log_mean = peak.double() + torch.log(mean)
    return log_mean if eps is None else torch.logaddexp(log_mean, log_mean.new_tensor(math.log(eps)))


def check_kind(kind: str) -> None:
    """Raises: SettingsError: unknown kind of centring."""
    if kind not in _KINDS:
        raise SettingsError(
            wanted=nearest(str(kind), _KINDS), got=repr(kind), where="centering", do="use logit or probability"
        )


def _add_probabilities(chunk: Tensor, peak: Tensor, total: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """(peak [K], total [K]) with the softmax of `chunk` [n, K] added, total relative to the new peak."""
    log_p = F.log_softmax(chunk, dim=-1, dtype=wide)
    higher = torch.maximum(peak, log_p.amax(0))
    added = log_p.sub_(higher).exp_().sum(0)
    return higher, total * torch.exp((peak - higher).double()) + added
