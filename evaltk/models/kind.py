"""What a kind of net is: how its tensors are recognised, named and sized, and how it is built and gives tokens.

A kind is one object, `KIND`, in a file of its own in this folder; `of` and `recognise` find it by listing the folder.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import evaltk.models
from evaltk.errors import CheckpointError, SettingsError
from evaltk.models.skeleton import on_meta
from evaltk.types import Arch, PositionRule

Weights = Mapping[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]


class Kind:
    """A kind of net; the defaults are those of a net that timm builds by name.

    Attributes:
        name: as in `Arch.kind`.
        built_by_name: whether `Arch.name` fixes the net, so that it takes part in the digest of weights; else the other
            fields of `Arch` do, and heads and LayerNorm's epsilon are not in the tensors.
        sized_by_tensors: whether the tensors tell the size of images that the net was trained for.
    """

    name = ""
    built_by_name = True
    sized_by_tensors = True

    def recognises(self, weights: Weights) -> bool:
        """Whether the keys are those of such a net."""
        return False

    def rename(self, weights: Weights) -> dict[str, torch.Tensor]:
        """The tensors under the names that `build` takes, from those of other code."""
        return dict(weights)

    def read(self, weights: Weights, path: Path) -> Arch:
        """The architecture the tensors tell; what they do not is 0. Raises: CheckpointError: no net of this kind."""
        raise NotImplementedError

    def settle(self, stated: Arch | None, weights: Weights, path: Path) -> Arch:
        """The architecture that tensors and file agree on. Raises: CheckpointError: the file states another one."""
        actual = self.read(weights, path)
        if stated is not None and stated != actual:
            got = f"{stated.name} stated, {actual.name} in the tensors"
            raise CheckpointError(wanted="one architecture", got=got, where=path, do="convert the original file again")
        return actual

    def name_of(self, arch: Arch) -> str:
        """What the net is called, by its sizes."""
        return arch.name

    def shapes(self, arch: Arch) -> Shapes:
        """{key: shape} of every tensor the net must have, without a class head."""
        return timm_shapes(arch.name)

    def optional(self, arch: Arch) -> Shapes:
        """{key: shape} of tensors it may have besides."""
        return {}

    def random_weights(self, name: str, seed: int) -> dict[str, torch.Tensor] | None:
        """Untrained weights of the net that timm calls `name`; None where that is no net of this kind."""
        return None

    def of_model(self, arch: Arch, model: Any) -> Arch:
        """`arch` with what timm's model in memory has, but not its tensors."""
        return arch

    def build(self, arch: Arch, weights: Weights, *, position: PositionRule | None) -> nn.Module:
        """The net with exactly these weights. position: rule for positions at other image sizes."""
        net = timm_net(arch.name)
        net.load_state_dict(dict(weights), strict=True)
        return net

    def native_side(self, arch: Arch) -> int:
        """Side in pixels of square images that pass through the net without any resampling."""
        return 2 * arch.patch_size

    def forward_features(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        """What timm's method of that name gives for the same net, after the final norm."""
        features: torch.Tensor = self.norm(net, net.forward_features(images))
        return features

    def check_images(self, arch: Arch, side: tuple[int, int], position: PositionRule | None) -> None:
        """Raises: SettingsError: images [.., *side] that the net cannot take, or not by that rule of positions."""

    def num_blocks(self, arch: Arch) -> int:
        """How many last blocks may be asked for."""
        return 1

    def blocks(
        self, net: Any, arch: Arch, images: torch.Tensor, *, last: int, mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """(outputs of the last `last` blocks before the final norm, oldest first; the grid of patches h x w).

        Each output is [B, prefix + h*w, D].

        Args: images: [B, 3, H, W]. mask: bool [B, h, w], patches replaced by the mask token, or None.
        """
        raise NotImplementedError

    def class_blocks(self, net: Any, arch: Arch, images: torch.Tensor, *, last: int) -> list[torch.Tensor]:
        """As `blocks`, where the class feature alone is read: the last output may end behind its tokens."""
        return self.blocks(net, arch, images, last=last, mask=None)[0]

    def prefix(self, arch: Arch) -> int:
        """Tokens before the patches: the class feature, and registers."""
        return 1

    def pooled(self, net: Any, arch: Arch, x: torch.Tensor, *, norm: bool) -> torch.Tensor:
        """The class feature [B, D] of a block's tokens [B, prefix + h*w, D]: the first token, or the mean of patches.

        Args: norm: apply the final norm, of tokens before they are pooled.
        """
        if arch.pool == "token":
            return self.norm(net, x[:, :1])[:, 0] if norm else x[:, 0]
        patches = x[:, self.prefix(arch) :]
        return (self.norm(net, patches) if norm else patches).float().mean(dim=1)

    def class_attention(self, net: Any, arch: Arch) -> Sequence[nn.Module]:
        """Attention modules, first to last, whose first query stands for the class and whose last keys are the patches.

        None where no token attends to all patches.
        """
        return ()

    def norm(self, net: Any, x: torch.Tensor) -> torch.Tensor:
        """The net's final norm of tokens [..., D]; what has none gives x."""
        return x


@functools.cache
def kinds() -> Mapping[str, Kind]:
    """{name: kind} of every file in this folder that has one."""
    modules = (importlib.import_module(f"evaltk.models.{m.name}") for m in pkgutil.iter_modules(evaltk.models.__path__))
    return {m.KIND.name: m.KIND for m in modules if hasattr(m, "KIND")}


def of(name: str) -> Kind:
    """The kind called `name`. Raises: KeyError: there is none."""
    return kinds()[name]


def recognise(weights: Weights) -> Kind | None:
    """The kind whose keys these are, or None."""
    return next((kind for kind in kinds().values() if kind.recognises(weights)), None)


def check_patches(arch: Arch, side: tuple[int, int]) -> None:
    """Raises: SettingsError: images smaller than one patch."""
    if min(side) < arch.patch_size:
        wanted, do = f"images of at least one patch ({arch.patch_size} px)", f"--crop {arch.patch_size} or more"
        raise SettingsError(wanted=wanted, got=f"{tuple(side)}", where=arch.name, do=do)


def check_rule(
    arch: Arch, side: tuple[int, int], position: PositionRule | None, rules: tuple[PositionRule, ...]
) -> None:
    """Raises: SettingsError: no rule of `rules` for images of a size that the net was not trained for."""
    if position not in rules:
        raise SettingsError(
            wanted=f"a rule for positions at {side[0]} x {side[1]} px, which were learnt at {arch.img_size} px",
            got="a file that does not say" if position is None else f"{position!r}, which is for nets of another kind",
            where=f"--position, {arch.name}",
            do=f"--position {' or --position '.join(rules)}, as in the code that trained the net; or --crop "
            f"{arch.img_size}, where none is needed",
        )


def timm_net(name: str) -> Any:
    """timm's net of that name without weights of its own or a class head."""
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0)


@functools.cache
def timm_shapes(name: str) -> Shapes:
    """{key: shape} of timm's net of that name without its class head."""
    with on_meta():
        return {k: tuple(t.shape) for k, t in timm_net(name).state_dict().items()}


def count(weights: Weights, prefix: str, *, limit: int = 1000) -> int:
    """One more than the highest number below `limit` that follows `prefix` in a key."""
    following = (k.removeprefix(prefix).split(".")[0] for k in weights if k.startswith(prefix))
    numbers: Iterator[int] = (int(n) for n in following if n.isascii() and n.isdigit() and len(n) < 6)
    return 1 + max((n for n in numbers if n < limit), default=-1)
