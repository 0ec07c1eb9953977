"""Small nets in every layout that files come in, for the tests of loading."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from evaltk.models import vit_layout
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, Arch

GOLDEN = Path(__file__).parents[1] / "golden"
# 24 wide: no standard width, so that the number of heads must be told.
ARCH = Arch(
    name="tiny", patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0, img_size=32, norm_eps=1e-6
)  # fmt: skip
WIDE = Arch(
    name="wide", patch_size=8, embed_dim=192, depth=1, num_heads=3, mlp_ratio=1.0, img_size=16, norm_eps=1e-6
)  # fmt: skip

# What nothing in a flat file of ARCH tells, and every loading of one must say.
FLAT: dict[str, Any] = {"num_heads": 3, "norm_eps": 1e-6, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
STATS: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}

Weights = dict[str, torch.Tensor]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit(arch: Arch = ARCH, seed: int = 0) -> Weights:
    """Random weights of a ViT, large enough that every one of them moves the features."""
    draw = stream(seed)
    return {
        k: torch.randn(s, generator=draw) * 0.2 + ("norm" in k and "weight" in k)
        for k, s in vit_layout.shapes_of(arch).items()
    }


def dino_head(
    dim: int = 24, k: int = 10, *, hidden: int = 16, p: int = 8, norm: bool = False, seed: int = 1
) -> Weights:
    """A head under DINO's names: three layers, with BatchNorm between them or not, g of both signs."""
    draw = stream(1)
    numbers, out = ((0, 3, 6), (1, 4)) if norm else ((0, 2, 4), ()), {}
    for i, (a, b) in zip(numbers[0], ((dim, hidden), (hidden, hidden), (hidden, p)), strict=True):
        out[f"mlp.{i}.weight"] = torch.randn(b, a, generator=draw) * 0.3
        out[f"mlp.{i}.bias"] = torch.randn(b, generator=draw) * 0.3
    for i in numbers[1]:
        out |= {f"mlp.{i}.{name}": t for name, t in batch_norm(hidden, draw).items()}
    out["last_layer.weight_g"] = torch.randn(k, 1, generator=draw)
    out["last_layer.weight_v"] = torch.randn(k, p, generator=draw)
    return out


def batch_norm(width: int, draw: torch.Generator) -> Weights:
    return {
        "weight": torch.rand(width, generator=draw) + 0.5,
        "bias": torch.randn(width, generator=draw),
        "running_mean": torch.randn(width, generator=draw),
        "running_var": torch.rand(width, generator=draw) + 0.1,
        "num_batches_tracked": torch.tensor(7),
    }


def msn_projector(dim: int = 24, *, hidden: int = 16, p: int = 8, norm: bool = True, seed: int = 2) -> Weights:
    draw = stream(seed)
    out = {}
    for i, (a, b) in enumerate(((dim, hidden), (hidden, hidden), (hidden, p)), start=1):
        out[f"fc{i}.weight"] = torch.randn(b, a, generator=draw) * 0.3
        out[f"fc{i}.bias"] = torch.randn(b, generator=draw) * 0.3
        if norm and i < 3:
            out |= {f"bn{i}.{name}": t for name, t in batch_norm(hidden, draw).items()}
    return out


def under(prefix: str, items: Weights) -> Weights:
    return {f"{prefix}{key}": tensor for key, tensor in items.items()}


def branch(prefix: str = "", seed: int = 0, **head: Any) -> Weights:
    """Backbone and head as a training script saves them."""
    arch = head.pop("arch", ARCH)
    return under(f"{prefix}backbone.", vit(arch, seed)) | under(f"{prefix}head.", dino_head(arch.embed_dim, **head))


def dino_full(**more: Any) -> dict[str, Any]:
    tree = {
        "student": branch("module.", seed=5),
        "teacher": branch(),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
        "epoch": 7,
        "args": argparse.Namespace(arch="vit_tiny_of_ours", patch_size=8),
        "dino_loss": {"center": torch.arange(10.0)[None]},
    }
    return tree | more


def ibot_full(**more: Any) -> dict[str, Any]:
    """As iBOT writes it: the student has a mask token, the teacher none; prototypes of patches of their own."""
    patches = under(
        "head.last_layer2.", {"weight_g": torch.ones(6, 1), "weight_v": torch.randn(6, 8, generator=stream())}
    )
    masked = {"module.backbone.masked_embed": torch.randn(1, 24, generator=stream(9))}
    tree = {
        "student": branch("module.", seed=5) | under("module.", patches) | masked,
        "teacher": branch() | patches,
        "optimizer": {},
        "epoch": 8,
        "args": argparse.Namespace(arch="vit_tiny_of_ours", patch_size=8, act_in_head="gelu"),
        "ibot_loss": {"center": torch.arange(10.0)[None], "center2": torch.zeros(1, 1, 6)},
    }
    return tree | more


def msn_full(**more: Any) -> dict[str, Any]:
    net = vit() | under("fc.", msn_projector())
    tree = {
        "encoder": under("module.", vit(seed=5) | under("fc.", msn_projector(seed=6))),
        "target_encoder": under("module.", net),
        "prototypes": torch.randn(12, 8, generator=stream(3)) * 4,
        "opt": {},
        "epoch": 9,
        "loss": 1.5,
        "batch_size": 2,
        "world_size": 1,
        "lr": 0.1,
        "temperature": 0.1,
    }
    return tree | more


def save(tree: object, path: Path, **how: Any) -> Path:
    torch.save(tree, path, **how)
    return path


def images(*shape: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed))


def gap(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest element."""
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max())
