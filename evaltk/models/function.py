"""A function of images as a net: ``images [B, 3, H, W] -> features [B, D]`` (or `Tokens`), called and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from evaltk import precise
from evaltk.errors import ModelError, SettingsError
from evaltk.types import Arch, PositionRule, Precision, Recipe, Tokens

WANTED = "features [B, D] as one float tensor, or evaltk.types.Tokens"
SHOWN = 5  # parts of an output that an error lists
# Rank of a tensor -> what makes [B, D] of it, and what that is.
PICKED = {2: ("", ""), 3: ("[:, 0]", " the first token"), 4: (".mean(dim=(2, 3))", " the mean over positions")}
# How far the features of the same images may be apart from call to call, relative to the largest value.
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE = 5e-2  # of half precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """torch's default device and type of new tensors, as they were when this was made."""

    device: torch.device = field(default_factory=torch.get_default_device)
    dtype: torch.dtype = field(default_factory=torch.get_default_dtype)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """They hold inside."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            if torch.get_default_device() == self.device:
                yield
            else:
                with self.device:
                    yield
        finally:
            torch.set_default_dtype(before)


OURS = Defaults(device=torch.device("cpu"), dtype=torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """How to call a function of images.

    Attributes:
        function: the function. name: what errors call it.
        device, dtype: of the images it is given.
        defaults: torch's, as the user has set them.
    """

    function: Callable[[torch.Tensor], Any]
    name: str
    device: torch.device
    dtype: torch.dtype
    defaults: Defaults = OURS

    @torch.no_grad()  # not inference_mode: what a net caches meanwhile could not be trained on later
    def __call__(self, images: torch.Tensor) -> Tokens:
        """Checked tokens, float32, of images [B, 3, H, W] float32; features [B, D] have no patches: [B, 0, D].

        Raises: ModelError: another output.
        """
        with precise.products(self.device), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            images = images.to(self.device, self.dtype)
            with self.defaults.hold():
                output = self.function(images)
            return self._checked(output, len(images))

    def _checked(self, output: object, batch: int) -> Tokens:
        if isinstance(output, Tokens):
            cls, patches, (h, w) = output.cls, output.patches, output.grid
            right = cls.ndim == 2 and patches.shape == (batch, h * w, cls.shape[-1])
            if not (right and len(cls) == batch and cls.is_floating_point() and patches.is_floating_point()):
                got = f"Tokens with cls {_described(cls)}, patches {_described(patches)}, grid {(h, w)}"
                self._refuse(f"Tokens: cls [{batch}, D], patches [{batch}, h*w, D], grid (h, w)", got, "")
            return Tokens(cls=cls.float(), patches=patches.float(), grid=(h, w))
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or not output.is_floating_point():
            self._refuse(WANTED, _described(output), _remedy(output))
        assert isinstance(output, torch.Tensor)
        if len(output) != batch or not output.shape[1]:
            do = "return one row per image, in the order of the images"
            self._refuse(f"one row of features for each of {batch} images", _described(output), do)
        return Tokens(cls=output.float(), patches=output.new_zeros(batch, 0, output.shape[1]).float(), grid=(0, 0))

    def _refuse(self, wanted: str, got: str, do: str) -> None:
        raise ModelError(wanted=wanted, got=got, where=self.name, do=do or "return tensors of these shapes")


def _described(value: object) -> str:
    """What an output is, with the shapes inside."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with {_list([f'{k}: {_short(v)}' for k, v in value.items()])}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {_list([_short(v) for v in value])}"
    return type(value).__name__


def _short(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__


def _list(parts: list[str]) -> str:
    return ", ".join(parts[:SHOWN]) + (f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else "")


def _remedy(value: object) -> str:
    """The lambda that picks features from such an output, as far as can be told; what it picks is to be checked."""
    text = "model(x)"
    if isinstance(value, Mapping):
        ranks = {k: v.ndim for k, v in value.items() if isinstance(v, torch.Tensor)}
        key = next((k for rank in (2, 3, 4) for k, r in ranks.items() if r == rank), None)
        text, value = f"{text}[{key!r}]", value.get(key)
    elif isinstance(value, tuple | list):
        at = next((i for i, v in enumerate(value) if isinstance(v, torch.Tensor) and v.ndim in PICKED), None)
        text, value = f"{text}[{at}]", None if at is None else value[at]
    if not isinstance(value, torch.Tensor) or value.ndim not in PICKED or not value.is_floating_point():
        return "pass a function that returns features: evaltk.evaluate(lambda x: ..., ...)"
    index, what = PICKED[value.ndim]
    return f"pass a function that picks features, for example{what} (to be checked): lambda x: {text}{index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a function gave for a few images: D, the grid of its patches ((0, 0): none)."""

    width: int
    grid: tuple[int, int]


def probe(call: Calling, images: torch.Tensor) -> Probed:
    """Try a function out on images [B, 3, H, W], B >= 2.

    Raises: ModelError: it fails on them; its output is not one of features, not finite, random, or depends on the other
        images of a batch.
    """
    try:
        whole, again, part = call(images).cls, call(images), call(images[:1]).cls
    except ModelError:
        raise
    except Exception as error:  # the user's own code may raise anything
        where = f"images {list(images.shape)} {str(call.dtype).removeprefix('torch.')} on {call.device}"
        got = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        do = "correct it, or state size (transform) and device if they are others"
        raise ModelError(wanted=f"a function that takes {where}", got=got, where=call.name, do=do) from error
    if not bool(torch.isfinite(whole).all()):
        do = "check the weights: training may have diverged" if call.dtype == torch.float32 else "pass model.float()"
        raise ModelError(wanted="finite features", got="NaN or infinity", where=call.name, do=do)
    allowed = TOLERANCES.get(call.dtype, COARSE) * float(whole.abs().max())
    if float((whole - again.cls).abs().max()) > allowed:
        do = "switch off dropout and other random steps that its eval mode leaves on"
        wanted, got = "the same features for the same images", "others at a second call"
        raise ModelError(wanted=wanted, got=got, where=call.name, do=do)
    if float((whole[:1] - part).abs().max()) > allowed:
        do = "use batch normalisation with its running statistics (eval mode), one feature per image"
        wanted, got = "features that depend on their own image only", "others in another batch"
        raise ModelError(wanted=wanted, got=got, where=call.name, do=do)
    return Probed(width=whole.shape[1], grid=again.grid)


class FunctionNet:
    """A function of images in the place of a `Backbone`: what protocols ask of a net.

    Args:
        call: the function. arch: with its D as `embed_dim`. digest: of the weights it uses.
        tokens: whether it gives patch tokens.
    """

    masks = False
    position: PositionRule = "own"  # type: ignore[assignment]  # the function does as it does

    def __init__(self, call: Calling, *, arch: Arch, digest: str, tokens: bool, precision: Precision) -> None:
        self.call, self.arch, self.digest = call, arch, digest
        self.device, self.gives_tokens, self.precision = call.device, tokens, precision

    def features(self, images: torch.Tensor, recipes: tuple[Recipe, ...]) -> list[torch.Tensor]:
        """One call for all recipes: a float32 [B, D] each, in their order. images: as in `tokens`.

        Raises: SettingsError: a feature that the function does not give. ModelError: an output of another kind.
        """
        for recipe in recipes:
            self._check(recipe)
        found = self._tokens(images)
        parts = {"cls": found.cls, "mean": found.patches.mean(dim=1)}
        return [torch.cat([parts[part] for part in recipe.tokens.split("+")], dim=1) for recipe in recipes]

    def tokens(
        self, images: torch.Tensor, *, last: int = 1, norm: bool = True, mask: torch.Tensor | None = None
    ) -> list[Tokens]:
        """What the function gives, float32, for images [B, 3, H, W], normalised. Raises: as `features`."""
        self._check(Recipe(last=last, norm=norm))
        if mask is not None:
            raise self._cannot("masked patches")
        return [self._tokens(images)]

    def _tokens(self, images: torch.Tensor) -> Tokens:
        found = self.call(images)
        if found.cls.shape[1] != self.arch.embed_dim:
            wanted, got = f"{self.arch.embed_dim} features per image in every batch", f"{found.cls.shape[1]}"
            raise ModelError(wanted=wanted, got=got, where=self.call.name, do="return the same features for all images")
        return found

    def _check(self, recipe: Recipe) -> None:
        if recipe.last != 1:
            raise self._cannot(f"the tokens of its last {recipe.last} blocks")
        if not recipe.norm:
            raise self._cannot("features before its final norm")
        if recipe.tokens != "cls" and not self.gives_tokens:
            raise self._cannot("patch tokens")

    def _cannot(self, what: str) -> SettingsError:
        given = "one feature per image" if not self.gives_tokens else "the tokens of its last block"
        do = 'choose settings that use the feature itself, as settings={"fewshot": {"norm": "post"}} does'
        return SettingsError(wanted=what, got=f"a function that gives {given}", where=self.call.name, do=do)
