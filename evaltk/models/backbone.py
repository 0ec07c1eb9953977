"""Checkpoint -> Backbone: frozen, in evaluation mode, giving tokens; and the checkpoint's projection head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import nn

from evaltk.errors import CheckpointError, SettingsError
from evaltk.models import heads, kind
from evaltk.models.heads import Head
from evaltk.types import Arch, Checkpoint, PositionRule, Precision, Recipe, Tokens

PRECISIONS, RULES = get_args(Precision), get_args(PositionRule)


def build_backbone(
    checkpoint: Checkpoint, *, device: str = "cpu", precision: Precision = "fp32", position: PositionRule | None = None
) -> Backbone:
    """The frozen net of a checkpoint.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1`` ...
        precision: ``fp32`` (TF32 off) or ``bf16`` (autocast; tokens come back as float32).
        position: rule for positions at other image sizes; None: the family's own.

    Raises: SettingsError: a word that is none of these, or no such device.
    """
    for flag, said, known in (("--precision", precision, PRECISIONS), ("--position", position, (*RULES, None))):
        if said not in known:
            known = tuple(one for one in known if one is not None)
            raise SettingsError(wanted=" or ".join(known), got=repr(said), where=flag, do=f"{flag} {known[0]}")
    try:
        where = torch.device(device)
        if where.type == "meta":
            raise RuntimeError("a device without memory")
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA answers with an AssertionError
        got = str(error).splitlines()[0]
        raise SettingsError(wanted="a device", got=f"{device!r}: {got}", where="--device", do="--device cpu") from error
    rule = checkpoint.position if position is None else "size_aa" if position == "timm" else position
    net = kind.of(checkpoint.arch.kind).build(checkpoint.arch, checkpoint.weights, position=rule)
    net = net.eval().requires_grad_(False).to(where)
    if where.type == "cuda" and precision == "bf16":
        channels_last(net)
    return Backbone(net, checkpoint, precision, rule)


def channels_last(net: nn.Module) -> None:
    """Order the weights of a convolutional net as tensor cores want them; its maps then come in that order, too.

    A net of patches has one convolution, which gains nothing. In float32 without TF32, CUDA's kernels prefer the other.
    """
    if any(isinstance(part, nn.BatchNorm2d) for part in net.modules()):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


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


class Backbone:
    """A frozen net. `tokens` is all that evaluation asks of it."""

    def __init__(
        self, net: nn.Module, checkpoint: Checkpoint, precision: Precision, position: PositionRule | None
    ) -> None:
        self.net = net
        self.arch: Arch = checkpoint.arch
        self.kind = kind.of(checkpoint.arch.kind)
        self.masks = "mask_token" in checkpoint.weights
        self.digest = checkpoint.digest
        self.precision: Precision = precision
        self.position: PositionRule | None = position
        self.device = next((p.device for p in net.parameters()), torch.device("cpu"))
        # On a CPU the last block computes all tokens: products of other shapes would change the digits.
        self.spares_patches = self.device.type == "cuda"

    def __repr__(self) -> str:
        return f"Backbone({self.arch.name}, {self.device}, {self.precision}, weights {self.digest[:12]})"

    @torch.no_grad()  # not inference_mode, whose tensors a probe could not be trained on
    def tokens(
        self, images: torch.Tensor, *, last: int = 1, norm: bool = True, mask: torch.Tensor | None = None
    ) -> list[Tokens]:
        """Tokens after each of the last blocks, oldest first.

        Args:
            images: [B, 3, H, W], normalised.
            last: how many blocks. norm: apply the net's final LayerNorm to each (as DINO's linear probe does).
            mask: bool [B, h, w], patches replaced by the mask token (ViT only).

        Returns: `last` Tokens, float32, on the backbone's device.
        Raises: SettingsError: more blocks than there are, a mask without a mask token, images too small for the net.
        """
        with numerics(self.device, self.precision):
            raw, grid = self._blocks(images.to(self.device), last, mask)
            skip = self.kind.prefix(self.arch)
            done = [self._norm(x) if norm else x for x in raw]
            if self.arch.pool == "token":
                classes = [x[:, 0] for x in done]
            else:
                classes = [self.kind.pooled(self.net, self.arch, x, norm=norm) for x in raw]
        return [
            Tokens(cls=cls.float(), patches=x[:, skip:].float(), grid=grid)
            for cls, x in zip(classes, done, strict=True)
        ]

    @torch.no_grad()  # not inference_mode, whose tensors a probe could not be trained on
    def features(self, images: torch.Tensor, recipes: tuple[Recipe, ...]) -> list[torch.Tensor]:
        """One forward pass for all recipes: a float32 [B, D] each, in their order. images: as in `tokens`."""
        with numerics(self.device, self.precision):
            last = max(r.last for r in recipes)
            if self.spares_patches and all(r.tokens == "cls" for r in recipes):
                self._check(images, last)
                raw = self.kind.class_blocks(self.net, self.arch, images.to(self.device), last=last)
            else:
                raw, _ = self._blocks(images.to(self.device), last, None)
            return [self._feature(raw, recipe) for recipe in recipes]

    def _feature(self, raw: list[torch.Tensor], recipe: Recipe) -> torch.Tensor:
        skip = self.kind.prefix(self.arch)
        parts = []
        if recipe.tokens in ("cls", "cls+mean"):
            # LayerNorm acts on each token alone: a class token is normed without its patches.
            parts += [self.kind.pooled(self.net, self.arch, x, norm=recipe.norm) for x in raw[-recipe.last :]]
        if recipe.tokens in ("mean", "cls+mean"):
            parts.append((self._norm(raw[-1][:, skip:]) if recipe.norm else raw[-1][:, skip:]).float().mean(dim=1))
        return torch.cat([p.float() for p in parts], dim=1)

    def _blocks(
        self, images: torch.Tensor, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        self._check(images, last)
        if mask is not None and not self.masks:
            do = "use iBOT's student, which has one"
            raise SettingsError(wanted="a net with a mask token", got="none", where=self.arch.name, do=do)
        mask = None if mask is None else mask.to(self.device)
        return self.kind.blocks(self.net, self.arch, images, last=last, mask=mask)

    def _check(self, images: torch.Tensor, last: int) -> None:
        self.kind.check_images(self.arch, (images.shape[-2], images.shape[-1]), self.position)
        most = self.kind.num_blocks(self.arch)
        if not 1 <= last <= most:
            wanted = f"1 to {most} last blocks" if most > 1 else "one last block"
            do = "ask for fewer, or use a ViT" if last > most else "ask for 1"
            raise SettingsError(wanted=wanted, got=str(last), where=self.arch.name, do=do)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.kind.norm(self.net, x)


@contextmanager
def numerics(device: torch.device, precision: Precision) -> Iterator[None]:
    """Forward passes inside are float32 without TF32, or under bfloat16 autocast."""
    # TF32 rounds to 10 bits of mantissa, and `medium` to bfloat16 on CPUs too: published numbers are made without.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


__all__ = ["Backbone", "Head", "build_backbone", "build_head", "heads", "numerics"]
