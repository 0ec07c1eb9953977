"""Student and teacher: a ViT and a projection head, with the parameter names of published checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from evaltk import distributed
from evaltk.checkpoints.families import random
from evaltk.errors import SettingsError
from evaltk.models.vit import ViT
from evaltk.seeding import derive
from evaltk.types import Arch
from pretrain import card, prototypes


def parse(name: str) -> Arch:
    """The ViT that a recipe's ``net.arch`` names. Raises: SettingsError: no ViT of that name."""
    arch = random.parse(name)
    if arch is None:
        raise SettingsError(
            wanted=random.FORM, got=repr(name), where="net.arch", do="e.g. --set net.arch=vit_small_patch16_224"
        )
    return arch


class Head(nn.Module):
    """DINO's head: Linear GELU Linear GELU Linear, L2-normalised, then prototypes (`last_layer`)."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, num_prototypes: int, scoring: prototypes.Kind) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        init_linear(*self.mlp)
        self.last_layer = prototypes.PrototypeLayer(bottleneck, num_prototypes, scoring)

    def embed(self, tokens: Tensor) -> Tensor:
        """y [..., p], unit, float32, of tokens [..., D]."""
        y = self.mlp(tokens)
        with torch.autocast(y.device.type, enabled=False):
            return F.normalize(y.float(), dim=-1)

    def scores(self, y: Tensor, temperature: float) -> Tensor:
        """Scores [..., K] of y [..., p], divided by the temperature, float32."""
        return self.last_layer(y, temperature=temperature)


def init_linear(*layers: nn.Module) -> None:
    """Draw the weights of linear layers as DINO does: truncated normal of std 0.02, biases 0."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)


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


class Network(nn.Module):
    """Backbone and head; one call takes the views of all sizes, so that DDP sees one forward pass per step.

    Views of one size go through the backbone together, and all class tokens through the head together.

    Args:
        head: with `embed(tokens [..., D]) -> [..., p]`. masked: whether patches may be replaced by the mask token,
            which is trained then.
    """

    def __init__(self, backbone: ViT, head: nn.Module, *, masked: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone.mask_token.requires_grad_(masked)
        self.head: Any = head

    def tokens(
        self, images: Tensor, mask: Tensor | None = None, keep: Tensor | None = None, *, class_only: bool = False
    ) -> Tensor:
        """Tokens after the final norm [B, 1 + n, D].

        Args: keep: [n], patches that are not dropped (after positions). class_only: the class token's [B, 1, D].
        """
        net = self.backbone
        x = net.pos_drop(net.embed(images, mask))
        if keep is not None:
            x = torch.cat([x[:, :1], x[:, 1 + keep]], dim=1)
        for block in net.blocks[:-1]:
            x = block(x)
        last = net.blocks[-1]
        return net.norm(last(x, class_only=True) if class_only else last(x))

    def forward(
        self,
        views: list[Tensor],
        *,
        mask: Tensor | None = None,
        keep: Tensor | None = None,
        patches: Tensor | Literal["all"] | None = None,
    ) -> dict[str, Tensor]:
        """Head outputs of the views, in their order.

        Args:
            views: [B, 3, s, s] each; neighbours of one size are joined. mask: bool, of the first group's images.
            keep: patches of the first group that are not dropped. patches: which of the first group's n * N patches to
                send through the head, int64 [M], or all.

        Returns: ``cls`` [V * B, p] (unit, except MSN) and, with `patches`, ``patch`` [M, p].
        """
        classes, patch = [], None
        for first, group in enumerate(_groups(views)):
            whole = first == 0 and patches is not None
            # On a CPU the last block computes all tokens: products of other shapes would change the digits.
            only = not whole and card.is_card(group.device)
            x = self.tokens(group, mask if first == 0 else None, keep if first == 0 else None, class_only=only)
            classes.append(x[:, 0])
            if whole:
                patch = x[:, 1:].flatten(0, 1)
                if isinstance(patches, Tensor):
                    patch = patch.index_select(0, patches)
        cls = torch.cat(classes)
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


def pair(build: Callable[[float], Network], *, drop_path: float, seed: int) -> tuple[Network, Network]:
    """(student, teacher): the same initial weights, drawn from the stream of `seed`; the teacher has no gradient.

    Both are in training mode; the teacher has no drop path.

    Args:
        build: a network with the given drop path, its weights from torch's default stream.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        student = build(drop_path)
        teacher = build(0.0)
    # timm draws weights as DINO does (truncated normal of std 0.02, zero biases) but for the class token.
    for name in ("pos_embed", "cls_token"):
        stream = torch.Generator().manual_seed(derive(seed, "weights", name))
        nn.init.trunc_normal_(getattr(student.backbone, name), std=0.02, generator=stream)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    return student, teacher
