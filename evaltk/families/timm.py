"""timm: a flat state dict of a timm classifier, and `timm:NAME`, with weights of timm's own cache or download."""

from __future__ import annotations

from typing import Any

import torch

from evaltk.errors import CheckpointError, SettingsError, nearest
from evaltk.models import layout
from evaltk.rawfile import Converted, RawFile, ReadOptions, strip, tensors
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD

SCHEME = "timm"
HEADS = ("head.weight", "head.bias", "fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias")


def claims(raw: RawFile) -> bool:
    """A flat net that still has its class head."""
    if raw.metadata.get("evaltk") or "evaltk_format" in raw.tree:
        return False
    flat = strip(tensors(raw.tree), "module.")
    return layout.kind_of(flat) is not None and any(key in flat for key in HEADS)


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The net without its class head.

    Nothing in such a file fixes LayerNorm's eps or the pixel statistics: the caller must, or loading says so.
    """
    flat = strip(tensors(raw.tree), "module.")
    convolutional = layout.kind_of(flat) != "vit"
    return Converted(
        weights={k: t for k, t in flat.items() if k not in HEADS},
        branch="backbone",
        dropped={k: "class head" for k in flat if k in HEADS},
        norm_eps=1e-6 if convolutional else None,
    )


def from_name(name: str, options: ReadOptions) -> Converted:
    """A pretrained timm model by name, with the pixel statistics of its own configuration.

    Raises: SettingsError: no such name. CheckpointError: a net of another kind, or no weights in reach.
    """
    import timm

    known = timm.list_models(name.split(".")[0]) and (
        "." not in name or name in timm.list_pretrained(f"{name.split('.')[0]}*")
    )
    if not known:
        raise SettingsError(
            wanted="a timm model", got=repr(name), where="timm:NAME", do=nearest(name, timm.list_models())[:300]
        )
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        raise CheckpointError(
            wanted=f"weights of timm:{name}",
            got=str(error).splitlines()[0][:160] if str(error) else type(error).__name__,
            where="timm's cache and download",
            do="run once with a network, or name a weight file",
        ) from error
    return from_model(model, name)


def from_model(model: Any, name: str) -> Converted:
    """A timm model in memory: a ViT of the standard kind, a ResNet or an XCiT. Raises: CheckpointError: any other."""
    weights = {k: t.detach().clone() for k, t in model.state_dict().items()}
    kind = layout.kind_of(weights)
    if kind is None:
        raise CheckpointError(
            wanted="a standard ViT, ResNet or XCiT",
            got=type(model).__name__,
            where=f"timm:{name}",
            do="name another model",
        )
    config = model.pretrained_cfg
    eps = model.norm.eps if kind == "vit" and isinstance(model.norm, torch.nn.LayerNorm) else 1e-6
    heads = model.blocks[0].attn.num_heads if kind == "vit" else 0
    return Converted(
        weights=weights,
        branch="backbone",
        norm_eps=eps,
        mean=tuple(config.get("mean", IMAGENET_MEAN)),  # type: ignore[arg-type]
        std=tuple(config.get("std", IMAGENET_STD)),  # type: ignore[arg-type]
        num_heads=heads or None,
    )
