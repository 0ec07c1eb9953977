"""ResNets under torchvision's names, built by timm. The class feature is the mean over positions (avgpool), 2048 wide
for bottleneck blocks; BatchNorm has torch's default epsilon, 1e-5.

Details: ``stem`` ("imagenet" where not stated; "cifar": 3 x 3, stride 1, padding 1, no maxpool; "cifar-pad2": the same
with padding 2, solo-learn's), ``width`` (1 where not stated; 2, 4: every layer, the stem's too, is as much wider).
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from evaltk.errors import CheckpointError
from evaltk.models.kind import Kind, Shapes, Weights, count, timm_net
from evaltk.models.skeleton import on_meta
from evaltk.seeding import normal
from evaltk.types import Arch, Detail, PositionRule

RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # block counts, bottleneck -> name
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
    ((3, 24, 36, 3), True): "resnet200",
}
STEM = 64  # channels of the stem of a net of width 1
CIFAR = {"cifar": 1, "cifar-pad2": 2}  # paddings of the 3 x 3 stem


class ResNet(Kind):
    """See `Kind`; there is no final norm."""

    name = "resnet"

    def recognises(self, weights: Weights) -> bool:
        """The stem and the first block."""
        return "conv1.weight" in weights and "layer1.0.conv1.weight" in weights

    def read(self, weights: Weights, path: Path) -> Arch:
        """By the number of blocks. A stem of 3 x 3 has none of the names that say its padding: it is left open ("").

        Raises: CheckpointError: none of the standard ones.
        """
        counts = tuple(count(weights, f"layer{i}.") for i in (1, 2, 3, 4))
        bottleneck = "layer1.0.conv3.weight" in weights
        name = RESNETS.get((counts, bottleneck))
        if name is None:
            wanted = f"blocks of {', '.join(sorted(RESNETS.values()))}"
            raise CheckpointError(wanted=wanted, got=f"{counts}", where=path, do="name another file")
        width, kernel = _stem_of(weights, path)
        planes = weights["layer1.0.conv1.weight"].shape[0]
        if bottleneck and width == 1 and planes == 2 * STEM and name in ("resnet50", "resnet101"):
            name = f"wide_{name}_2"
        details: dict[str, Detail] = {"width": width} if width > 1 else {}
        details |= {"stem": ""} if kernel == 3 else {}
        return Arch(
            name=name if width == 1 else f"{name}x{width}",
            kind=self.name,
            patch_size=32 if kernel == 7 else 8,
            embed_dim=(2048 if bottleneck else 512) * width,
            depth=sum(counts),
            num_heads=0,
            mlp_ratio=0.0,
            img_size=224,
            norm_eps=1e-6,  # of no norm in the net; part of the digest of its weights
            details=tuple(sorted(details.items())),
        )

    def settle(self, stated: Arch | None, weights: Weights, path: Path) -> Arch:
        """What the tensors tell, with the stem that is stated, which they do not."""
        if stated is not None and stated.detail("stem", "imagenet") in CIFAR:
            told = self.read(weights, path)
            if told.detail("stem", "imagenet") == "":
                details = tuple(sorted(dict(told.details).items() | {("stem", stated.detail("stem"))} - {("stem", "")}))
                if replace(told, details=details, img_size=stated.img_size) == stated:
                    return stated
        return super().settle(stated, weights, path)

    def shapes(self, arch: Arch) -> Shapes:
        """{key: shape}; the same for every padding of the stem."""
        padded = (*((k, v) for k, v in arch.details if k != "stem"), ("stem", "cifar"))
        plain = arch.detail("stem", "imagenet") == "imagenet"
        return _shapes(replace(arch, details=arch.details if plain else padded))

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule | None) -> nn.Module:
        """The net with exactly these weights."""
        net = _net(arch)
        net.load_state_dict(dict(weights), strict=True)
        return net

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

    def pooled(self, net: Any, arch: Arch, x: torch.Tensor, *, norm: bool) -> torch.Tensor:
        """The mean over positions, which `blocks` puts first."""
        return x[:, 0]


def _stem_of(weights: Weights, path: Path) -> tuple[int, int]:
    """(width factor, kernel) of the first convolution. Raises: CheckpointError: no stem known here."""
    shape = tuple(weights["conv1.weight"].shape)
    known = len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]
    if not known or shape[2] not in (3, 7) or shape[0] not in (STEM, 2 * STEM, 4 * STEM):
        raise CheckpointError(
            wanted="a stem of 7 x 7 (ImageNet's) or 3 x 3 (CIFAR's) for RGB images, 64, 128 or 256 wide",
            got=f"conv1.weight {shape}",
            where=path,
            do="name another file",
        )
    return shape[0] // STEM, shape[2]


def _net(arch: Arch) -> Any:
    """timm's net, with the stem and the widths of this one."""
    width = arch.detail("width", 1)
    assert isinstance(width, int)
    name = arch.name.removesuffix(f"x{width}") if width > 1 else arch.name
    if width == 1 and name in timm_names():
        net = timm_net(name)
    else:
        blocks, bottleneck = next(key for key, known in RESNETS.items() if known == name)
        channels = tuple(STEM * width * 2**i for i in range(4))
        net = timm.models.resnet.ResNet(
            Bottleneck if bottleneck else BasicBlock, blocks, num_classes=0, channels=channels
        )
        if width > 1:
            _widen_stem(net, STEM * width)
    if (stem := arch.detail("stem", "imagenet")) != "imagenet":
        # An open stem is built too, for its shapes; `unstated` asks for it before any forward pass.
        padding = CIFAR.get(str(stem), 1)
        net.conv1 = nn.Conv2d(3, STEM * width, 3, stride=1, padding=padding, bias=False)
        net.maxpool = nn.Identity()
    return net


@functools.cache
def _shapes(arch: Arch) -> Shapes:
    with on_meta():
        return {k: tuple(t.shape) for k, t in _net(arch).state_dict().items()}


def _widen_stem(net: Any, channels: int) -> None:
    """The first convolution and what reads its output, which timm keeps 64 wide."""
    first = net.layer1[0]
    net.conv1, net.bn1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(channels)
    first.conv1 = _of_inputs(first.conv1, channels)
    if first.downsample is not None:
        first.downsample[0] = _of_inputs(first.downsample[0], channels)


def _of_inputs(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The convolution with another number of input channels."""
    return nn.Conv2d(
        channels, layer.out_channels, layer.kernel_size, stride=layer.stride, padding=layer.padding, bias=False
    )  # type: ignore[arg-type]


def timm_names() -> frozenset[str]:
    """Names of nets that timm builds as they are."""
    return frozenset(
        {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"}
    )


KIND = ResNet()
