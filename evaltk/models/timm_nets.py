"""Nets other than ViT, by timm: ResNet and XCiT. Their class feature is what DINO's evaluation takes of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from evaltk.errors import CheckpointError
from evaltk.types import Arch

RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # block counts, bottleneck -> name
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
XCITS = {  # (width, depth) -> name; the XCiT paper's table 1
    (128, 12): "nano_12",
    (192, 12): "tiny_12",
    (384, 12): "small_12",
    (192, 24): "tiny_24",
    (384, 24): "small_24",
    (512, 24): "medium_24",
    (768, 24): "large_24",
}


def read_resnet(weights: Mapping[str, torch.Tensor], path: Path) -> Arch:
    """The ResNet these torchvision-style keys belong to. Raises: CheckpointError: none of the standard five."""
    counts = tuple(
        1 + max((int(k.split(".")[1]) for k in weights if k.startswith(f"layer{i}.")), default=-1) for i in (1, 2, 3, 4)
    )
    name = RESNETS.get((counts, "layer1.0.conv3.weight" in weights))
    if name is None:
        raise CheckpointError(
            wanted=f"blocks of {', '.join(sorted(RESNETS.values()))}",
            got=f"{counts}",
            where=path,
            do="name another file",
        )
    width = 2048 if "layer1.0.conv3.weight" in weights else 512
    return _arch(name, "resnet", patch=32, dim=width, depth=sum(counts), heads=0)


def read_xcit(weights: Mapping[str, torch.Tensor], path: Path) -> Arch:
    """The XCiT these keys belong to. Raises: CheckpointError: none of the published sizes."""
    dim = weights["cls_token"].shape[-1]
    depth = 1 + max((int(k.split(".")[1]) for k in weights if k.startswith("blocks.")), default=-1)
    stages = sum(1 for k in weights if k.startswith("patch_embed.proj.") and k.endswith(".0.weight"))
    patch = 2**stages
    size = XCITS.get((dim, depth))
    if size is None or patch not in (8, 16):
        raise CheckpointError(
            wanted="a published XCiT",
            got=f"width {dim}, depth {depth}, patch {patch}",
            where=path,
            do="name another file",
        )
    heads = weights["blocks.0.attn.temperature"].shape[0]
    return _arch(f"xcit_{size}_p{patch}_224", "xcit", patch=patch, dim=dim, depth=depth, heads=heads)


def _arch(name: str, kind: str, *, patch: int, dim: int, depth: int, heads: int) -> Arch:
    return Arch(
        name=name,
        kind=kind,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=4.0 if heads else 0.0,
        img_size=224,
        norm_eps=1e-6,
    )


@functools.cache
def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """{key: shape} of timm's net of that name without its class head."""
    with torch.device("meta"):
        return {k: tuple(t.shape) for k, t in _create(name).state_dict().items()}


def rename_xcit(weights: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The original XCiT's key names (facebookresearch/xcit, as in DINO's files) in timm's; timm's own stay."""
    from timm.models.xcit import checkpoint_filter_fn

    return dict(checkpoint_filter_fn(dict(weights), _create(name)))


def random_weights(name: str, seed: int) -> dict[str, torch.Tensor] | None:
    """Untrained weights of a ResNet or XCiT in timm's own initialisation, or None where the name is neither's."""
    import timm

    if not name.startswith(("resnet", "xcit_")) or not timm.list_models(name):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {k: t.clone() for k, t in _create(name).state_dict().items()}


def build(arch: Arch) -> nn.Module:
    """timm's net, without a class head."""
    return _create(arch.name)


def _create(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0)
