"""MSN: cross-entropy of anchors' prototype probabilities with sharpened targets; me-max prevents collapse.

kappa = 1 / temperature is the same for all prototypes, so there is no vMF variant.

Source: Assran et al., ECCV 2022 (arXiv 2204.07141); msn src/losses.py:33-127.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaltk import distributed
from evaltk.models.vit import ViT
from evaltk.seeding import generator
from evaltk.sending import to_device
from evaltk.types import Arch
from pretrain import method, nets, prototypes, schedules
from pretrain.data.loader import Batch
from pretrain.data.views import Views
from pretrain.optim import Optim
from pretrain.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class MsnSettings(method.Settings):
    """A recipe's [method] for MSN.

    sharpen: temperature of the targets; sinkhorn: iterations; me_max: weight; patch_drop: share of dropped patches.
    """

    sharpen: float = 0.25
    sinkhorn: int = 3
    me_max: float = 1.0
    patch_drop: float = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """MSN's constants (configs/pretrain/msn_vits16.yaml).

    temperature: of anchors and targets; sharpen_temperature: T, targets are p^(1/T), normalised; sinkhorn_iterations:
    0 for none; me_max_weight, entropy_weight: weights of the two regularisers.

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
        the targets extend over all processes; the gradient is this process's share, to be averaged by DDP.
    Raises: SettingsError: fewer than two prototypes. ValueError: mismatched shapes.
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
    """Balance targets: alternately normalise each prototype's total over all processes' rows, and each row to 1.

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
    """me-max: log K - H(mean of the rows [R, K] over all processes), scalar >= 0, 0 if all prototypes are used equally.

    The value is over all processes; the gradient flows through this process's rows only. Averaged over processes, as
    DDP does, it is the gradient of the joint value.
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


class Projector(nn.Module):
    """MSN's head: fc1 BN GELU fc2 BN GELU fc3. Source: msn src/msn_train.py:380-392."""

    def __init__(self, dim: int, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(dim, hidden), nets.SyncBatchNorm(hidden)
        self.fc2, self.bn2 = nn.Linear(hidden, hidden), nets.SyncBatchNorm(hidden)
        self.fc3 = nn.Linear(hidden, bottleneck)
        nets.init_linear(self.fc1, self.fc2, self.fc3)

    def embed(self, cls: Tensor) -> Tensor:
        """z [B, p], not normalised, of class tokens [B, D]."""
        x = F.gelu(self.bn1(self.fc1(cls)))
        return self.fc3(F.gelu(self.bn2(self.fc2(x))))


class MsnNetwork(nets.Network):
    """Backbone, projector, and `prototypes` [K, p] beside them, of which the student's alone are used."""

    def __init__(self, backbone: ViT, head: nn.Module, num_prototypes: int, dim: int) -> None:
        super().__init__(backbone, head)
        bound = 1 / math.sqrt(dim)
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, dim).uniform_(-bound, bound))


class Msn(method.Method[MsnSettings]):
    """MSN."""

    name = "msn"
    settings = MsnSettings
    layout = "msn"
    frozen_at_first = ()
    unregularized = ("prototypes",)
    tree_keys = ("encoder", "target_encoder", "opt")
    center_keys: ClassVar[Mapping[str, tuple[str, tuple[int, ...]]]] = {}

    def rules(self, settings: MsnSettings, views: Views) -> Iterable[method.Rule]:
        """One target view, one anchor whose patches are dropped; kappa is fixed."""
        return [
            (settings.sharpen > 0 and 0 <= settings.sinkhorn <= 1000, "method.sharpen > 0, sinkhorn from 0 to 1000",
             (settings.sharpen, settings.sinkhorn)),
            (0 <= settings.patch_drop < 1, "method.patch_drop in [0, 1)", settings.patch_drop),
            (views.num_global == 2, "views.num_global = 2", views.num_global),
            (settings.scoring == "cosine", "method.scoring = cosine (kappa is fixed)", settings.scoring),
        ]  # fmt: skip

    def network(self, arch: Arch, settings: MsnSettings, *, drop_path: float) -> nets.Network:
        """A ViT, MSN's projector and prototypes."""
        m = settings
        backbone = ViT(arch, drop_path=drop_path)
        return MsnNetwork(backbone, Projector(arch.embed_dim, m.hidden, m.bottleneck), m.num_prototypes, m.bottleneck)

    def rates(self, optim: Optim, step: int, *, total_steps: int, epoch_steps: int) -> schedules.Rates:
        """MSN's schedules, which do not reach their end."""
        return schedules.msn_rates(optim, step, total_steps=total_steps, epoch_steps=epoch_steps)

    def loss(self, batch: Batch, state: State[MsnSettings]) -> method.LossOutput:
        """The first view is the target, the second the anchor whose patches are dropped, the others focal anchors."""
        m = state.settings
        h, w = state.teacher.backbone.grid_of(batch.views[1])
        order = torch.randperm(h * w, generator=generator(state.seed, "patch drop", state.position.step))
        keep = order[: int((1 - m.patch_drop) * h * w)].sort().values
        with torch.no_grad():
            targets = state.teacher(batch.views[:1])["cls"]
        anchors = state.student(batch.views[1:], keep=to_device(keep, batch.views[1].device))["cls"]
        result = loss(
            anchors,
            targets,
            state.network.prototypes,
            settings=Settings(
                temperature=m.student_temp,
                sharpen_temperature=m.sharpen,
                sinkhorn_iterations=m.sinkhorn,
                me_max_weight=m.me_max,
            ),
        )
        return method.LossOutput(
            loss=result.total,
            parts={"cross_entropy": result.cross_entropy.detach(), "me_max": result.me_max.detach()},
            teacher=result.targets.clamp(min=1e-30).log(),
        )

    def prototypes(self, network: nets.Network) -> Tensor:
        """Prototypes [K, p], not normalised."""
        return network.prototypes.detach()

    def concentrations(self, network: nets.Network, settings: MsnSettings) -> None:
        """None: kappa = 1 / temperature is the same for all prototypes."""

    def file_key(self, key: str, branch: Literal["student", "teacher"]) -> str | None:
        """The encoder's names without `backbone.`, the projector's with `fc.`; prototypes stand apart."""
        if key in ("backbone.mask_token", "prototypes"):
            return None
        return f"fc.{key.removeprefix('head.')}" if key.startswith("head.") else key.removeprefix("backbone.")

    def pack(self, state: State[MsnSettings]) -> dict[str, Any]:
        """As in the base, with the student's prototypes."""
        return super().pack(state) | {"prototypes": state.network.prototypes.detach()}

    def unpack(self, tree: Mapping[str, Any], state: State[MsnSettings]) -> None:
        """As in the base, with the prototypes, which both networks get."""
        super().unpack(tree, state)
        for network in (state.network, state.teacher):
            network.load_state_dict({"prototypes": tree["prototypes"]}, strict=False)


METHOD = Msn()
