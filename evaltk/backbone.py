"""Checkpoint -> Backbone: frozen, in evaluation mode, giving tokens; and the checkpoint's projection head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from evaltk.errors import CheckpointError, SettingsError
from evaltk.models import heads
from evaltk.models.heads import Head
from evaltk.types import Arch, Checkpoint, PositionRule, Precision, Recipe, Tokens


def build_backbone(
    checkpoint: Checkpoint, *, device: str = "cpu", precision: Precision = "fp32", position: PositionRule = "dino"
) -> Backbone:
    """The frozen net of a checkpoint.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1`` ...
        precision: ``fp32`` (TF32 off) or ``bf16`` (autocast; tokens come back as float32).
        position: rule for the position table at other image sizes.
    """
    if precision not in ("fp32", "bf16"):
        raise SettingsError(wanted="fp32 or bf16", got=repr(precision), where="--precision", do="mend the flag")
    try:
        where = torch.device(device)
        if where.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("no CUDA device here")
    except RuntimeError as error:
        raise SettingsError(
            wanted="a device", got=str(error).splitlines()[0], where="--device", do="--device cpu"
        ) from error
    net = _net(checkpoint, position)
    return Backbone(net.eval().requires_grad_(False).to(where), checkpoint, precision, position)


def build_head(checkpoint: Checkpoint) -> Head:
    """The projection head of a checkpoint. Raises: CheckpointError: the file has none."""
    if checkpoint.head is None:
        raise CheckpointError(
            wanted="a checkpoint with its projection head",
            got=f"a {checkpoint.family} file without one",
            where=checkpoint.origin,
            do="use the full training checkpoint (evaltk ls checkpoints)",
        )
    return Head(checkpoint.head)


def _net(checkpoint: Checkpoint, position: PositionRule) -> nn.Module:
    if checkpoint.arch.kind == "pixels":
        return nn.Identity()
    if checkpoint.arch.kind == "vit":
        from evaltk.models import vit

        return vit.build(checkpoint.arch, checkpoint.weights, position=position)
    from evaltk.models import timm_nets

    net = timm_nets.build(checkpoint.arch)
    net.load_state_dict(dict(checkpoint.weights), strict=True)
    return net


class Backbone:
    """A frozen net. `tokens` is all that evaluation asks of it."""

    def __init__(self, net: nn.Module, checkpoint: Checkpoint, precision: Precision, position: PositionRule) -> None:
        self.net = net
        self.arch: Arch = checkpoint.arch
        self.digest = checkpoint.digest
        self.precision: Precision = precision
        self.position: PositionRule = position
        self.device = next((p.device for p in net.parameters()), torch.device("cpu"))

    @torch.inference_mode()
    def tokens(
        self, images: torch.Tensor, *, last: int = 1, norm: bool = True, mask: torch.Tensor | None = None
    ) -> list[Tokens]:
        """Tokens after each of the last blocks, oldest first.

        Args:
            images: [B, 3, H, W], normalised.
            last: how many blocks. norm: apply the net's final LayerNorm to each (as DINO's linear probe does).
            mask: bool [B, h, w], patches replaced by the mask token (ViT only).

        Returns: `last` Tokens, float32, on the backbone's device.
        """
        with self._numerics():
            raw, grid = self._blocks(images.to(self.device), last, mask)
            skip = 1 + self.arch.registers if self.arch.kind == "vit" else 1
            done = [self._norm(x) if norm else x for x in raw]
        return [Tokens(cls=x[:, 0].float(), patches=x[:, skip:].float(), grid=grid) for x in done]

    @torch.inference_mode()
    def features(self, images: torch.Tensor, recipes: tuple[Recipe, ...]) -> list[torch.Tensor]:
        """One forward pass for all recipes: a float32 [B, D] each, in their order. images: as in `tokens`."""
        with self._numerics():
            raw, _ = self._blocks(images.to(self.device), max(r.last for r in recipes), None)
            return [self._feature(raw, recipe) for recipe in recipes]

    def _feature(self, raw: list[torch.Tensor], recipe: Recipe) -> torch.Tensor:
        skip = 1 + self.arch.registers if self.arch.kind == "vit" else 1
        parts = []
        if recipe.tokens in ("cls", "cls+mean"):
            # LayerNorm acts on each token alone: the class token is normed without its patches.
            parts += [self._norm(x[:, :1])[:, 0] if recipe.norm else x[:, 0] for x in raw[-recipe.last :]]
        if recipe.tokens in ("mean", "cls+mean"):
            parts.append((self._norm(raw[-1][:, skip:]) if recipe.norm else raw[-1][:, skip:]).float().mean(dim=1))
        return torch.cat([p.float() for p in parts], dim=1)

    def _blocks(
        self, images: torch.Tensor, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        if self.arch.kind == "vit":
            if not 1 <= last <= self.arch.depth:
                raise SettingsError(
                    wanted=f"1 to {self.arch.depth} last blocks",
                    got=str(last),
                    where=self.arch.name,
                    do="ask for fewer",
                )
            return self.net.last_blocks(images, last=last, mask=mask), self.net.grid_of(images)  # type: ignore[operator]
        if last != 1 or mask is not None:
            raise SettingsError(
                wanted="one last block and no mask", got=f"last={last}", where=f"a {self.arch.kind}", do="use a ViT"
            )
        if self.arch.kind == "pixels":
            flat = images.float().flatten(1).unsqueeze(1)
            return [torch.cat([flat, flat], dim=1)], (1, 1)
        return self._timm_tokens(images)

    def _timm_tokens(self, images: torch.Tensor) -> tuple[list[torch.Tensor], tuple[int, int]]:
        x = self.net.forward_features(images)  # type: ignore[operator]
        if self.arch.kind == "resnet":  # [B, D, h, w]; the class feature is the mean over positions
            flat = x.flatten(2).transpose(1, 2)
            return [torch.cat([flat.mean(dim=1, keepdim=True), flat], dim=1)], (x.shape[-2], x.shape[-1])
        p = self.arch.patch_size
        return [x], (images.shape[-2] // p, images.shape[-1] // p)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        # ResNet has no final norm, and XCiT's forward_features ends with its own.
        return self.net.norm(x) if self.arch.kind == "vit" else x  # type: ignore[operator]

    @contextmanager
    def _numerics(self) -> Iterator[None]:
        # TF32 rounds to 10 bits of mantissa: published numbers are made without it (PROTOCOLS 0).
        kind = self.device.type
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            yield


__all__ = ["Backbone", "Head", "build_backbone", "build_head", "heads"]
