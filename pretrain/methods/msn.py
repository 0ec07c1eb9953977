"""The MSN loss: anchors' prototype probabilities against sharpened targets, kept from collapsing by me-max.

kappa = 1 / temperature is the same for all prototypes, so there is no vMF form of it.

Source: Assran et al., ECCV 2022 (arXiv 2204.07141); msn src/losses.py:33-127.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from evaltk import distributed
from pretrain import prototypes


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """MSN's constants (configs/pretrain/msn_vits16.yaml).

    temperature: of anchors and targets; sharpen_temperature: T, targets are p^(1/T) normalised; sinkhorn_iterations: 0
    for none; me_max_weight, entropy_weight: weights of the two regularisers.

    Raises: SettingsError: a temperature <= 0.
    """

    temperature: float = 0.1
    sharpen_temperature: float = 0.25
    sinkhorn_iterations: int = 3
    me_max_weight: float = 1.0
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "sharpen_temperature"):
            prototypes.check_temperature(getattr(self, name), name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loss:
    """total = cross_entropy + me_max_weight x me_max + entropy_weight x entropy; scalars, in nats.

    cross_entropy: mean over anchors of H(target, anchor). me_max: log K - H(mean anchor probabilities), >= 0.
    entropy: mean over anchors of H(anchor), in [0, log K]. targets: [B, K], detached, rows sum to 1.
    """

    total: Tensor
    cross_entropy: Tensor
    me_max: Tensor
    entropy: Tensor
    targets: Tensor


def loss(anchors: Tensor, targets: Tensor, prototype_vectors: Tensor, *, settings: Settings | None = None) -> Loss:
    """MSN's loss on the outputs of the anchor and the target encoder.

    Args:
        anchors: anchor outputs z [A * B, p], A views with the view as the outer index; need not be unit.
        targets: target outputs of the one target view [B, p]; no gradient flows into them.
        prototype_vectors: [K, p]; need not be unit; gradients reach them through the anchors alone.
        settings: constants; None for the published ones.

    Returns: the loss and its parts, float32 (float64 if the anchors are). The mean of the anchors and the balancing of
        the targets are over all processes; the gradient is this process's share, to be averaged by DDP.
    Raises: SettingsError: fewer than two prototypes. ValueError: shapes that do not fit.
    """
    settings = Settings() if settings is None else settings
    if targets.shape[0] == 0 or anchors.shape[0] == 0 or anchors.shape[0] % targets.shape[0]:
        raise ValueError(f"wanted A x B anchors for B targets, got {anchors.shape[0]} and {targets.shape[0]}")
    log_p = _log_probabilities(anchors, prototype_vectors, settings.temperature)
    with torch.no_grad():
        target_p = prototype_probabilities(targets, prototype_vectors, temperature=settings.temperature)
        target_p = sharpen(target_p, settings.sharpen_temperature)
        if settings.sinkhorn_iterations > 0:
            target_p = sinkhorn(target_p, iterations=settings.sinkhorn_iterations)
    views = log_p.unflatten(0, (-1, targets.shape[0]))  # [A, B, K]
    cross_entropy = -(target_p * views).sum(-1).mean()
    p = log_p.exp()
    me_max = mean_entropy_gap(p)
    entropy = -(p * log_p).sum(-1).mean()
    total = cross_entropy + settings.me_max_weight * me_max
    if settings.entropy_weight:
        total = total + settings.entropy_weight * entropy
    return Loss(total=total, cross_entropy=cross_entropy, me_max=me_max, entropy=entropy, targets=target_p)


def prototype_probabilities(z: Tensor, prototype_vectors: Tensor, *, temperature: float = 0.1) -> Tensor:
    """softmax over prototypes of cos(z, prototype) / temperature.

    Args:
        z: [B, p]; prototype_vectors: [K, p]; both normalised here.
        temperature: > 0.

    Returns: [B, K], rows sum to 1, float32 or better under autocast too.
    Raises: SettingsError: temperature <= 0, or K < 2. ValueError: p differs.
    """
    return _log_probabilities(z, prototype_vectors, temperature).exp()


def sharpen(probabilities: Tensor, temperature: float = 0.25) -> Tensor:
    """p^(1/T), normalised to sum 1 over the last axis [..., K]; T < 1 sharpens.

    Raises: SettingsError: temperature <= 0.
    """
    prototypes.check_temperature(temperature, "sharpen temperature")
    return torch.softmax(probabilities.log() / temperature, dim=-1)


@torch.no_grad()
def sinkhorn(probabilities: Tensor, *, iterations: int = 3) -> Tensor:
    """Balance targets: alternately give each prototype equal weight over all processes' rows, and each row weight 1.

    Args:
        probabilities: this process's rows [B, K], non-negative.
        iterations: prototype-then-row normalisations.

    Returns: [B, K], rows sum to 1 exactly, columns to (rows of all processes) / K nearly; dtype as given.
    """
    q = probabilities.double()  # ratios multiply up over iterations, and the matrix is small
    tiny = torch.finfo(q.dtype).tiny
    num_prototypes = q.shape[1]
    q = q / distributed.all_reduce(q.sum()).clamp(min=tiny)
    for _ in range(iterations):
        q = q / (distributed.all_reduce(q.sum(0)).clamp(min=tiny) * num_prototypes)
        q = q / q.sum(1, keepdim=True).clamp(min=tiny)
    return q.to(probabilities.dtype)


def mean_entropy_gap(probabilities: Tensor) -> Tensor:
    """me-max: log K - H(mean of the rows [R, K] over all processes), scalar >= 0, 0 if all prototypes are used alike.

    Its value is that of all processes together, its gradient flows through this process's rows as if they were all;
    averaged over processes, as DDP does, that is the gradient of the joint value.
    """
    local = probabilities.mean(0)
    mean = local + (distributed.all_reduce(local.detach(), op="mean") - local.detach())
    return math.log(mean.shape[0]) - torch.special.entr(mean).sum()


def _log_probabilities(z: Tensor, prototype_vectors: Tensor, temperature: float) -> Tensor:
    prototypes.check_temperature(temperature)
    prototypes.check_num_prototypes(prototype_vectors.shape[0])
    if z.ndim != 2 or z.shape[1] != prototype_vectors.shape[1]:
        raise ValueError(f"wanted outputs [B, {prototype_vectors.shape[1]}], got {tuple(z.shape)}")
    with torch.autocast(device_type=z.device.type, enabled=False):
        dtype = torch.promote_types(z.dtype, torch.float32)
        unit, directions = F.normalize(z.to(dtype), dim=1), F.normalize(prototype_vectors.to(dtype), dim=1)
        return torch.log_softmax(unit @ directions.T / temperature, dim=1)
