"""Swin transformers (of EsViT, MoBY, SimMIM, transformers), built by timm. Their class feature is a mean of patches.

Heads and windows are in the tables of relative positions. Details: ``base`` (width of the first stage), ``depths``,
``heads`` and ``windows`` (one value a stage), ``fixed`` (the stages that shift their windows are those that do at
`Arch.img_size`, whatever the image; else as at the size at hand).

A stage whose grid is no larger than its window does not shift. The originals settle that when they build the net, which
for published files is at 224 px (SimMIM 192); transformers settles it for each image.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from evaltk.errors import CheckpointError, SettingsError
from evaltk.models import vit_layout
from evaltk.models.activations import of_transformer
from evaltk.models.kind import Kind, Shapes, Weights, count
from evaltk.models.skeleton import undrawn
from evaltk.types import Arch, PositionRule

TABLE = "layers.{}.blocks.{}.attn.relative_position_bias_table"


class SwinKind(Kind):
    """See `Kind`. LayerNorm's epsilon is in no tensor."""

    name = "swin"
    built_by_name = False
    sized_by_tensors = False

    def recognises(self, weights: Weights) -> bool:
        """A table of relative positions in the first block of a stage."""
        return "patch_embed.proj.weight" in weights and TABLE.format(0, 0) in weights

    def read(self, weights: Weights, path: Path) -> Arch:
        """Sizes, heads and windows. Raises: CheckpointError: shapes of no such net."""
        base, patch = vit_layout.patches(weights, path)
        stages = count(weights, "layers.", limit=8)
        depths = tuple(count(weights, f"layers.{i}.blocks.", limit=1000) for i in range(stages))
        tables = [weights.get(TABLE.format(i, 0)) for i in range(stages)]
        shapes = [tuple(t.shape) if t is not None and t.ndim == 2 else (0, 0) for t in tables]
        windows = tuple((math.isqrt(rows) + 1) // 2 for rows, _ in shapes)
        heads = tuple(columns for _, columns in shapes)
        sound = all(
            rows == (2 * window - 1) ** 2 and columns > 0 and base * 2**i % columns == 0
            for i, ((rows, columns), window) in enumerate(zip(shapes, windows, strict=True))
        )
        if not sound or min(depths, default=0) < 1:
            raise CheckpointError(
                wanted="stages of blocks, each with a table [(2w-1)^2, heads], the heads dividing the width",
                got=f"tables {shapes}, blocks {depths}, {base} wide",
                where=path,
                do="name another file",
            )
        fc1 = weights.get("layers.0.blocks.0.mlp.fc1.weight")
        return Arch(
            name="",
            kind=self.name,
            patch_size=patch * 2 ** (stages - 1),
            embed_dim=base * 2 ** (stages - 1),
            depth=sum(depths),
            num_heads=heads[-1],
            mlp_ratio=fc1.shape[0] / base if fc1 is not None and fc1.ndim == 2 else 4.0,
            img_size=patch * 2 ** (stages - 1) * windows[-1],  # the smallest that fills the last window
            norm_eps=0.0,
            class_position=False,
            pool="avg",
            details=(("base", base), ("depths", depths), ("heads", heads), ("windows", windows)),
        )

    def settle(self, stated: Arch | None, weights: Weights, path: Path) -> Arch:
        """What is stated, else what the tensors tell: they are compared by `shapes`."""
        return stated or self.read(weights, path)

    def name_of(self, arch: Arch) -> str:
        """timm's name for a standard size, else one that spells the sizes out."""
        base, depths, _, windows = _sizes(arch)
        size = {(96, 12): "tiny", (96, 24): "small", (128, 24): "base", (192, 24): "large"}.get((base, sum(depths)))
        patch = arch.patch_size // 2 ** (len(depths) - 1)
        sizes = size or f"dim{base}_depths{'-'.join(map(str, depths))}"
        return f"swin_{sizes}_patch{patch}_window{max(windows)}_{arch.img_size}"

    def shapes(self, arch: Arch) -> Shapes:
        """In timm's names."""
        base, depths, heads, windows = _sizes(arch)
        norm = ("weight", "bias")
        patch = arch.patch_size // 2 ** (len(depths) - 1)
        shapes: Shapes = {"patch_embed.proj.weight": (base, 3, patch, patch), "patch_embed.proj.bias": (base,)}
        shapes |= {f"patch_embed.norm.{part}": (base,) for part in norm}
        for i, depth in enumerate(depths):
            d = base * 2**i
            hidden = round(d * arch.mlp_ratio)
            if i:
                shapes[f"layers.{i}.downsample.reduction.weight"] = (d, 2 * d)
                shapes |= {f"layers.{i}.downsample.norm.{part}": (2 * d,) for part in norm}
            block: Shapes = {f"{name}.{part}": (d,) for name in ("norm1", "norm2") for part in norm}
            block["attn.relative_position_bias_table"] = ((2 * windows[i] - 1) ** 2, heads[i])
            layers = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}
            for layer, shape in layers.items():
                block |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
            shapes |= {f"layers.{i}.blocks.{j}.{key}": shape for j in range(depth) for key, shape in block.items()}
        return shapes | {f"norm.{part}": (arch.embed_dim,) for part in norm}

    def of_model(self, arch: Arch, model: Any) -> Arch:
        """Heads, epsilon, activation and its size."""
        arch = of_transformer(arch, model, model.layers[0].blocks[0])
        arch = replace(arch, img_size=model.patch_embed.img_size[0])
        return replace(arch, name=self.name_of(arch))

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule | None) -> nn.Module:
        """The net for square images of `Arch.img_size`, and others by `blocks`."""
        base, depths, heads, windows = _sizes(arch)
        with undrawn():
            net = SwinTransformer(
                img_size=arch.img_size,
                patch_size=arch.patch_size // 2 ** (len(depths) - 1),
                num_classes=0,
                embed_dim=base,
                depths=depths,
                num_heads=heads,
                window_size=max(windows),
                strict_img_size=False,
                mlp_ratio=arch.mlp_ratio,
                drop_path_rate=0.0,
                norm_layer=partial(nn.LayerNorm, eps=arch.norm_eps),
            )
        net.load_state_dict(dict(weights), strict=True, assign=True)
        _shift(net, arch, (arch.img_size, arch.img_size))
        return net  # type: ignore[no-any-return]

    def native_side(self, arch: Arch) -> int:
        """The size it is built for."""
        return arch.img_size

    def check_images(self, arch: Arch, side: tuple[int, int], position: PositionRule | None) -> None:
        """Whole patches, grids that fill each stage's window, and even ones before each merging of patches.

        EsViT and timm pad odd grids differently: features at such sizes are nobody's.
        """
        _, depths, _, windows = _sizes(arch)
        smallest = max(arch.patch_size // 2 ** (len(depths) - 1 - i) * w for i, w in enumerate(windows))
        if any(s % arch.patch_size or s < smallest for s in side):
            raise SettingsError(
                wanted=f"sides that are multiples of {arch.patch_size} px and at least {smallest}",
                got=f"{side[0]} x {side[1]}",
                where=arch.name,
                do=f"--crop {max(smallest, round(side[0] / arch.patch_size) * arch.patch_size)}",
            )

    def num_blocks(self, arch: Arch) -> int:
        """All of them; those of earlier stages are narrower."""
        return arch.depth

    def blocks(
        self, net: Any, arch: Arch, images: torch.Tensor, *, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """The last blocks' grids as tokens [B, h*w, D], each as wide as its stage; the grid of the last stage."""
        if not arch.detail("fixed"):
            _shift(net, arch, (images.shape[-2], images.shape[-1]))
        x = net.patch_embed(images)  # [B, h, w, C], as everywhere in timm's Swin
        done = 0
        kept = []
        for stage in net.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = block(x)
                done += 1
                if done > arch.depth - last:
                    kept.append(x.flatten(1, 2))
        return kept, (x.shape[1], x.shape[2])

    def forward_features(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        """The last grid after the final norm [B, h, w, D]."""
        features: torch.Tensor = net.forward_features(images)
        return features

    def prefix(self, arch: Arch) -> int:
        """None: there is no class token."""
        return 0

    def norm(self, net: Any, x: torch.Tensor) -> torch.Tensor:
        """The final LayerNorm, of the last stage's tokens; earlier stages have none (EsViT's swin_transformer.py)."""
        normed: torch.Tensor = net.norm(x) if x.shape[-1] == net.norm.normalized_shape[0] else x
        return normed


def _sizes(arch: Arch) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(base width, blocks, heads, windows), the last three by stage. Raises: ValueError: details of no such net."""
    base, *stages = (arch.detail(name) for name in ("base", "depths", "heads", "windows"))
    depths, heads, windows = stages
    if not (isinstance(depths, tuple) and isinstance(heads, tuple) and isinstance(windows, tuple)):
        raise ValueError(f"details of a Swin transformer: {arch.details}")
    alike = 0 < len(depths) == len(heads) == len(windows)
    if not (alike and isinstance(base, int) and base * 2 ** (len(depths) - 1) == arch.embed_dim):
        raise ValueError(f"details of a Swin transformer: {arch.details}")
    return base, depths, heads, windows


def _shift(net: Any, arch: Arch, side: tuple[int, int]) -> None:
    """Let every second block shift by half a window where its stage's grid is larger than the window."""
    _, depths, _, windows = _sizes(arch)
    for i, stage in enumerate(net.layers):
        scale = arch.patch_size // 2 ** (len(depths) - 1 - i)
        for j, block in enumerate(stage.blocks):
            small = min(side) // scale <= windows[i]
            block.shift_size = (0, 0) if small or j % 2 == 0 else (windows[i] // 2, windows[i] // 2)
            block.dynamic_mask = True


KIND = SwinKind()
