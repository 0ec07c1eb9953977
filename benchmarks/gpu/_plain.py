"""DINO's and DINO-vMF's training step as the paper states it, without any care for speed: what ours is compared with.

One forward pass a view size, weight-normed prototypes, float32 loss view by view, each gradient clipped by itself.
Source: Caron et al., ICCV 2021, algorithm 1; Govindarajan et al., ICLR 2023, Eq. 6, 7, 9.
"""

from __future__ import annotations

import copy
import math

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    """A ViT, a projection and prototypes."""

    def __init__(self, name: str, num_prototypes: int, *, vmf: bool) -> None:
        super().__init__()
        self.vmf = vmf
        self.backbone = timm.create_model(name, num_classes=0, dynamic_img_size=True)
        width = self.backbone.num_features
        self.mlp = nn.Sequential(
            nn.Linear(width, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        self.g = nn.Parameter(torch.ones(num_prototypes, 1))
        self.v = nn.Parameter(torch.randn(num_prototypes, 256) / 16)

    def forward(self, views: list[Tensor], temperature: float) -> Tensor:
        """Scores [views * B, K], divided by the temperature."""
        sizes = sorted({v.shape[-1] for v in views}, reverse=True)
        tokens = torch.cat([self.backbone(torch.cat([v for v in views if v.shape[-1] == size])) for size in sizes])
        with torch.autocast(tokens.device.type, enabled=False):
            y = F.normalize(self.mlp(tokens.float()), dim=-1)
            scores = y @ (self.g * F.normalize(self.v, dim=1)).T / temperature
            if self.vmf:
                nu = 256 / 2 - 1
                s = torch.sqrt((self.g.flatten() / temperature) ** 2 + nu**2)
                scores = scores + nu * torch.log(nu + s) - s + 0.5 * torch.log(s)
        return scores


class Training:
    """Student, teacher, centre, optimizer."""

    def __init__(self, name: str, num_prototypes: int, device: torch.device, *, vmf: bool) -> None:
        self.student = Net(name, num_prototypes, vmf=vmf).to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.center = torch.zeros(num_prototypes, device=device)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=5e-4)
        self.device = device

    def step(self, views: list[Tensor]) -> float:
        """One step on normalised views [B, 3, s, s] each, two globals first."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                teacher = self.teacher(views[:2], 0.04)
            student = self.student(views, 0.1)
        targets = torch.softmax(teacher - self.center, dim=-1).chunk(2)
        predictions = F.log_softmax(student.float(), dim=-1).chunk(len(views))
        pairs = [(q, p) for i, q in enumerate(targets) for j, p in enumerate(predictions) if i != j]
        loss = sum(-(q * p).sum(-1).mean() for q, p in pairs) / len(pairs)
        assert isinstance(loss, Tensor)
        if not math.isfinite(loss.item()):
            raise RuntimeError("the plain step diverged")
        self.optimizer.zero_grad()
        loss.backward()
        for p in self.student.parameters():
            if p.grad is not None:
                norm = p.grad.norm()
                if norm > 3:
                    p.grad.mul_(3 / (norm + 1e-6))
        self.optimizer.step()
        with torch.no_grad():
            for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mine.mul_(0.996).add_(other, alpha=0.004)
            self.center = 0.9 * self.center + 0.1 * torch.log(torch.softmax(teacher, dim=-1).mean(0))
        return float(loss.detach())
