"""Student and teacher: a ViT and a projection head, with the original checkpoints' parameter names."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from evaltk import distributed
from evaltk.models.vit import ViT
from evaltk.seeding import derive
from evaltk.types import Arch
from pretrain.prototypes import PrototypeLayer
from pretrain.recipe import Method


def parse(name: str) -> Arch:
    """The ViT a recipe's ``net.arch`` spells. Raises: SettingsError: no ViT of that name."""
    from evaltk.checkpoints.families import random
    from evaltk.errors import SettingsError

    arch = random.parse(name)
    if arch is None:
        raise SettingsError(wanted=random.FORM, got=repr(name), where="net.arch", do="mend the name")
    return arch


class Head(nn.Module):
    """Linear GELU Linear GELU Linear, L2-normalised, then prototypes: DINO's head (`last_layer`) and iBOT's.

    `last_layer2` is `last_layer` itself where CLS and patches share prototypes (ibot/models/head.py:145-199).
    """

    def __init__(self, dim: int, method: Method) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, method.hidden),
            nn.GELU(),
            nn.Linear(method.hidden, method.hidden),
            nn.GELU(),
            nn.Linear(method.hidden, method.bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = PrototypeLayer(method.bottleneck, method.num_prototypes, method.scoring)
        if method.name == "ibot":
            shared = method.shared_head
            self.last_layer2 = (
                self.last_layer if shared else PrototypeLayer(method.bottleneck, method.num_prototypes, method.scoring)
            )

    def embed(self, tokens: Tensor) -> Tensor:
        """y [..., p], unit, float32."""
        y = self.mlp(tokens)
        with torch.autocast(y.device.type, enabled=False):
            return F.normalize(y.float(), dim=-1)

    def scores(self, y: Tensor, temperature: float, *, patch: bool = False) -> Tensor:
        """Scores [..., K] of y, divided by the temperature, float32."""
        layer = self.last_layer2 if patch else self.last_layer
        return layer(y, temperature=temperature)


class SyncBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the rows of all processes, on CPUs too (torch's own needs GPUs)."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and distributed.active()):
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce

        x = x.float()
        total = all_reduce(torch.cat([x.sum(0), x.new_full((1,), float(len(x)))]), op=dist.ReduceOp.SUM)
        mean, count = total[:-1] / total[-1], total[-1].detach()
        # A second exchange, for mean(x^2) - mean(x)^2 would cancel.
        var = all_reduce((x - mean).square().sum(0), op=dist.ReduceOp.SUM) / count
        with torch.no_grad():
            momentum = self.momentum or 0.1
            if self.running_mean is not None and self.running_var is not None:
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * count / (count - 1).clamp(min=1), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias


class Projector(nn.Module):
    """MSN's projector: fc1 BN GELU fc2 BN GELU fc3 (msn/src/msn_train.py:380-392)."""

    def __init__(self, dim: int, method: Method) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(dim, method.hidden), SyncBatchNorm(method.hidden)
        self.fc2, self.bn2 = nn.Linear(method.hidden, method.hidden), SyncBatchNorm(method.hidden)
        self.fc3 = nn.Linear(method.hidden, method.bottleneck)
        for layer in (self.fc1, self.fc2, self.fc3):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, cls: Tensor) -> Tensor:
        x = F.gelu(self.bn1(self.fc1(cls)))
        return self.fc3(F.gelu(self.bn2(self.fc2(x))))


class Network(nn.Module):
    """Backbone and head; one call takes the views of all sizes, so that DDP sees one forward pass a step.

    Views of a size go through the backbone together, and all class tokens through the head together.
    """

    def __init__(self, arch: Arch, method: Method, *, drop_path: float) -> None:
        super().__init__()
        self.backbone = ViT(arch, drop_path=drop_path)
        self.backbone.mask_token.requires_grad_(method.name == "ibot")
        self.method = method
        self.head: Any = Projector(arch.embed_dim, method) if method.name == "msn" else Head(arch.embed_dim, method)
        if method.name == "msn":
            bound = 1 / math.sqrt(method.bottleneck)
            self.prototypes = nn.Parameter(
                torch.empty(method.num_prototypes, method.bottleneck).uniform_(-bound, bound)
            )

    def tokens(self, images: Tensor, mask: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """Tokens after the final norm [B, 1 + n, D]; `keep` [n]: patches that are not dropped (after positions)."""
        net = self.backbone
        x = net.pos_drop(net.embed(images, mask))
        if keep is not None:
            x = torch.cat([x[:, :1], x[:, 1 + keep]], dim=1)
        for block in net.blocks:
            x = block(x)
        return net.norm(x)

    def forward(
        self,
        views: list[Tensor],
        *,
        mask: Tensor | None = None,
        keep: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Head outputs of the views, in their order.

        Args:
            views: [B, 3, s, s] each; neighbours of one size are joined. mask: bool, of the first group's images.
            keep: patches of the first group that are not dropped. patches: bool [n, N], which of the first group's
                patches to send through the head.

        Returns: ``cls`` [V * B, p] (unit, except MSN) and, with `patches`, ``patch`` [M, p].
        """
        classes, patch = [], None
        for first, group in enumerate(_groups(views)):
            x = self.tokens(group, mask if first == 0 else None, keep if first == 0 else None)
            classes.append(x[:, 0])
            if first == 0 and patches is not None:
                patch = x[:, 1:][patches]
        cls = torch.cat(classes)
        if self.method.name == "msn":
            return {"cls": self.head(cls)}
        if patch is None:
            return {"cls": self.head.embed(cls)}
        both = self.head.embed(torch.cat([cls, patch]))
        return {"cls": both[: len(cls)], "patch": both[len(cls) :]}


def _groups(views: list[Tensor]) -> list[Tensor]:
    groups: list[list[Tensor]] = []
    for view in views:
        if groups and groups[-1][0].shape[-2:] == view.shape[-2:]:
            groups[-1].append(view)
        else:
            groups.append([view])
    return [torch.cat(g) for g in groups]


def pair(arch: Arch, method: Method, *, drop_path: float, seed: int) -> tuple[Network, Network]:
    """(student, teacher): the same weights to begin with, drawn from the stream of `seed`; the teacher has no gradient.

    Both are in training mode; the teacher has no drop path.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        student = Network(arch, method, drop_path=drop_path)
        teacher = Network(arch, method, drop_path=0.0)
    # timm draws weights as DINO does (truncated normal of std 0.02, zero biases) but for the class token.
    for name in ("pos_embed", "cls_token"):
        stream = torch.Generator().manual_seed(derive(seed, "weights", name))
        nn.init.trunc_normal_(getattr(student.backbone, name), std=0.02, generator=stream)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    return student, teacher
