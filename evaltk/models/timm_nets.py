"""Nets other than ViT, by timm: ResNet and XCiT. Their class feature is what DINO's evaluation takes of them."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from evaltk.errors import CheckpointError
from evaltk.models.skeleton import on_meta
from evaltk.seeding import normal
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
    counts = tuple(count(weights, f"layer{i}.") for i in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in weights
    name = RESNETS.get((counts, bottleneck))
    if name is None:
        wanted = f"blocks of {', '.join(sorted(RESNETS.values()))}"
        raise CheckpointError(wanted=wanted, got=f"{counts}", where=path, do="name another file")
    return _arch(name, "resnet", patch=32, dim=2048 if bottleneck else 512, depth=sum(counts), heads=0)


def read_xcit(weights: Mapping[str, torch.Tensor], path: Path) -> Arch:
    """The XCiT these keys belong to. Raises: CheckpointError: none of the published sizes."""
    token, temperature = weights.get("cls_token"), weights.get("blocks.0.attn.temperature")
    dim = token.shape[-1] if token is not None and token.ndim else 0
    depth = count(weights, "blocks.")
    stages = (1 + count(weights, "patch_embed.proj.")) // 2  # convolutions, with activations between them
    size = XCITS.get((dim, depth))
    if size is None or stages not in (3, 4) or temperature is None or not temperature.ndim:
        raise CheckpointError(
            wanted="a published XCiT",
            got=f"width {dim}, depth {depth}, {stages} stages of patch embedding",
            where=path,
            do="name another file",
        )
    patch = 2**stages
    return _arch(f"xcit_{size}_p{patch}_224", "xcit", patch=patch, dim=dim, depth=depth, heads=len(temperature))


def same(stated: Arch | None, told: Arch, path: Path) -> Arch:
    """The architecture that the tensors tell. Raises: CheckpointError: the file states another one."""
    if stated not in (None, told):
        got = f"{stated.name} stated, {told.name} in the tensors" if stated else ""
        raise CheckpointError(wanted="one architecture", got=got, where=path, do="convert the original file again")
    return told


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
    with on_meta():
        return {k: tuple(t.shape) for k, t in _create(name).state_dict().items()}


def rename_xcit(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The original XCiT's key names (facebookresearch/xcit, as in DINO's files) in timm's; timm's own stay.

    Positions are called `pos_embeder` there, and class attention has one matrix for query, key and value.
    """
    out: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        joint = re.fullmatch(r"(cls_attn_blocks\.\d+\.attn\.)qkv\.(weight|bias)", key)
        if joint and tensor.ndim and tensor.shape[0] % 3 == 0:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            out |= {f"{joint[1]}{part}.{joint[2]}": t for part, t in parts}
        else:
            out[re.sub(r"^pos_embeder\.", "pos_embed.", key)] = tensor
    return out


def random_weights(name: str, seed: int) -> dict[str, torch.Tensor] | None:
    """Untrained weights of a ResNet or XCiT, distributed as timm's own; None for names that no file is read as."""
    if name not in RESNETS.values() and name not in {f"xcit_{s}_p{p}_224" for s in XCITS.values() for p in (8, 16)}:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _create(name)
    _redraw(net, torch.Generator().manual_seed(seed))
    return {k: t.clone() for k, t in net.state_dict().items()}


@torch.no_grad()
def _redraw(net: nn.Module, draw: torch.Generator) -> None:
    """Weights of timm's own distributions, in place, from draws that are the same bits on every processor.

    ResNet: convolutions normal with the variance 2 / (outputs of a kernel). XCiT: linear layers and the class token
    normal of std 0.02, convolutions and their biases uniform within 1 / sqrt(inputs of a kernel). What is not drawn
    stays. The feature cache is named by the bits.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(normal(*layer.weight.shape, std=0.02, generator=draw))
        elif isinstance(layer, nn.Conv2d) and hasattr(net, "cls_token"):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for part in (layer.weight, layer.bias):
                if part is not None:
                    part.copy_((2 * torch.rand(part.shape, dtype=torch.float64, generator=draw) - 1) * bound)
        elif isinstance(layer, nn.Conv2d):
            std = math.sqrt(2 / layer.weight[:, 0].numel())
            layer.weight.copy_(normal(*layer.weight.shape, std=std, generator=draw))
    if hasattr(net, "cls_token"):
        net.cls_token.copy_(normal(*net.cls_token.shape, std=0.02, generator=draw))


def build(arch: Arch, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """timm's net with exactly these weights, without a class head.

    XCiT's `forward_features` ends before the final norm, as a ViT's blocks do; the norm is its `final_norm`.
    """
    net = _create(arch.name)
    net.load_state_dict(dict(weights), strict=True)
    if arch.kind == "xcit":
        net.final_norm, net.norm = net.norm, nn.Identity()
    return net


def _create(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0)


def count(weights: Mapping[str, torch.Tensor], prefix: str, *, limit: int = 1000) -> int:
    """One more than the highest number below `limit` that follows `prefix` in a key."""
    found = (k.removeprefix(prefix).split(".")[0] for k in weights if k.startswith(prefix))
    numbers = (int(n) for n in found if n.isascii() and n.isdigit() and len(n) < 6)
    return 1 + max((n for n in numbers if n < limit), default=-1)
