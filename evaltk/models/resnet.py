"""ResNets under torchvision's names, built by timm. The class feature is the mean over positions (avgpool), 2048 wide
for bottleneck blocks; BatchNorm has torch's default epsilon, 1e-5.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaltk.errors import CheckpointError
from evaltk.models.kind import Kind, Weights, count, timm_net
from evaltk.seeding import normal
from evaltk.types import Arch

RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # block counts, bottleneck -> name
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


class ResNet(Kind):
    """See `Kind`; there is no final norm."""

    name = "resnet"

    def recognises(self, weights: Weights) -> bool:
        """The stem and the first block."""
        return "conv1.weight" in weights and "layer1.0.conv1.weight" in weights

    def read(self, weights: Weights, path: Path) -> Arch:
        """By the number of blocks. Raises: CheckpointError: none of the standard five."""
        counts = tuple(count(weights, f"layer{i}.") for i in (1, 2, 3, 4))
        bottleneck = "layer1.0.conv3.weight" in weights
        name = RESNETS.get((counts, bottleneck))
        if name is None:
            wanted = f"blocks of {', '.join(sorted(RESNETS.values()))}"
            raise CheckpointError(wanted=wanted, got=f"{counts}", where=path, do="name another file")
        return Arch(
            name=name,
            kind=self.name,
            patch_size=32,
            embed_dim=2048 if bottleneck else 512,
            depth=sum(counts),
            num_heads=0,
            mlp_ratio=0.0,
            img_size=224,
            norm_eps=1e-6,  # of no norm in the net; part of the digest of its weights
        )

    def random_weights(self, name: str, seed: int) -> dict[str, torch.Tensor] | None:
        """Distributed as timm's own, from draws that are the same bits on every processor: the cache is named by them.

        Convolutions are normal with the variance 2 / (outputs of a kernel); what is not drawn stays as timm has it.
        """
        if name not in RESNETS.values():
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = timm_net(name)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d):
                    std = math.sqrt(2 / layer.weight[:, 0].numel())
                    layer.weight.copy_(normal(*layer.weight.shape, std=std, generator=draw))
        return {k: t.clone() for k, t in net.state_dict().items()}

    def blocks(
        self, net: Any, arch: Arch, images: torch.Tensor, *, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """The last stage's map [B, D, h, w] as tokens, behind its mean over positions."""
        x = net.forward_features(images)
        flat = x.flatten(2).transpose(1, 2)
        return [torch.cat([flat.mean(dim=1, keepdim=True), flat], dim=1)], (x.shape[-2], x.shape[-1])


KIND = ResNet()
