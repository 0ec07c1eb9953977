"""How images are prepared for a net in memory: what the user says, or a timm model's own configuration says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from evaltk.bench import ImageOptions
from evaltk.data import transforms
from evaltk.data.callables import OwnTransform, read
from evaltk.data.transforms import Transform
from evaltk.errors import SettingsError, nearest

Spec: TypeAlias = Transform | Mapping[str, Any] | Callable[[Any], Any]
SIZES = ("crop", "resize", "interpolation", "mean", "std")
NO_OPTIONS = ImageOptions()
EXAMPLE = "transform=dict(crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Preprocessing of a net in memory.

    Attributes:
        side: of the images in pixels.
        mean, std: pixel statistics; () where a function normalises.
        options: what differs from the protocols' own resize and crop for this side.
        own: the function that prepares images; None: the protocols' transforms do, with the above.
        note: where the values come from; "" where the user gave them.
    """

    side: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    options: ImageOptions = NO_OPTIONS
    own: OwnTransform | None = None
    note: str = ""

    def view(self) -> Transform | OwnTransform:
        """The preprocessing of the protocols' plain view."""
        if self.own is not None:
            return self.own
        given = {name: getattr(self.options, name) for name in ("resize", "crop", "interpolation")}
        return transforms.view("eval", self.side, self.mean, self.std, **given)  # type: ignore[arg-type]


def of_model(model: object, spec: Spec | None, name: str) -> Prepared:
    """The preprocessing of a net in memory. Raises: SettingsError: what is not stated, a transform that will not do."""
    if spec is None:
        return _of_timm(model, name)
    if isinstance(spec, Mapping):
        return _of_sizes(spec)
    known = spec if isinstance(spec, Transform) else _read(spec)
    if isinstance(known, OwnTransform):
        return Prepared(side=known.crop, own=known)
    return _of_transform(known)


def of_checkpoint(spec: Spec | None) -> ImageOptions:
    """Resize, crop and interpolation for a checkpoint, whose mean and std are its own. Raises: SettingsError."""
    if spec is None:
        return NO_OPTIONS
    if not isinstance(spec, Mapping) or {*spec} & {"mean", "std"}:
        got = ", ".join(spec) if isinstance(spec, Mapping) else type(spec).__name__
        do = "transform=dict(resize=, crop=, interpolation=); mean and std: evaltk.load_checkpoint(path, mean=, std=)"
        raise SettingsError(wanted="sizes for a checkpoint", got=got, where="transform", do=do)
    _check_names(spec)
    return ImageOptions(**spec)


def _read(spec: object) -> Transform | OwnTransform:
    if not callable(spec):
        wanted = "a transform, PIL image -> tensor [3, H, W], or sizes"
        raise SettingsError(wanted=wanted, got=type(spec).__name__, where="transform", do=EXAMPLE)
    return read(spec)


def _of_transform(known: Transform) -> Prepared:
    usual = transforms.view("eval", known.crop, known.mean, known.std)
    apart = {name: getattr(known, name) for name in ("resize", "interpolation")}
    options = {name: value for name, value in apart.items() if value != getattr(usual, name)}
    return Prepared(side=known.crop, mean=known.mean, std=known.std, options=ImageOptions(**options))


def _of_sizes(sizes: Mapping[str, Any]) -> Prepared:
    _check_names(sizes)
    if missing := [name for name in ("crop", "mean", "std") if sizes.get(name) is None]:
        got = f"only {', '.join(sizes)}" if sizes else "nothing"
        raise SettingsError(wanted=", ".join(missing), got=got, where="transform", do=f"for example {EXAMPLE}")
    mean, std = (_triple(name, sizes[name]) for name in ("mean", "std"))
    options = ImageOptions(**{k: sizes[k] for k in ("resize", "interpolation") if sizes.get(k) is not None})
    prepared = Prepared(side=sizes["crop"], mean=mean, std=std, options=options)
    usual = prepared.view()
    assert isinstance(usual, Transform)
    replace(usual, crop=sizes["crop"], resize=options.resize or usual.resize)  # checks them
    return prepared


def _check_names(sizes: Mapping[str, Any]) -> None:
    for name in sizes:
        if name not in SIZES:
            raise SettingsError(wanted="a size", got=repr(name), where="transform", do=nearest(str(name), SIZES))
    for name in ("crop", "resize"):
        value = sizes.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SettingsError(wanted="a size in pixels", got=repr(value), where=f"transform: {name}", do=EXAMPLE)


def _triple(name: str, value: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(0 <= v <= 1 for v in found) or (name == "std" and min(found) == 0):
        do = "divide values of 0 to 255 by 255"
        raise SettingsError(wanted=f"{name} R G B of [0, 1]", got=repr(value), where=f"transform: {name}", do=do)
    return found


def _of_timm(model: object, name: str) -> Prepared:
    """By the data configuration of a timm model, as timm's own evaluation prepares images.

    Raises: SettingsError: a model without one, or one that prepares images otherwise.
    """
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not config.get("input_size"):
        wanted = "how images are prepared: size, mean and std of the training"
        do = f"{EXAMPLE}, with the model's own values; or its transform, PIL image -> tensor"
        raise SettingsError(wanted=wanted, got="a model that does not say", where=name, do=do)
    from timm.data import resolve_model_data_config

    said = resolve_model_data_config(model)
    (_, height, width), mode = said["input_size"], said.get("crop_mode", "center")
    if height != width or mode != "center" or said["interpolation"] not in transforms.FILTERS:
        got = f"{height} x {width}, {mode} crop, {said['interpolation']}"
        wanted = "a square centre crop, bicubic or bilinear"
        raise SettingsError(wanted=wanted, got=got, where=name, do="pass transform=, for example timm's own")
    transform = Transform(
        resize=math.floor(height / said["crop_pct"]),  # as timm.data.create_transform
        crop=height,
        interpolation=said["interpolation"],
        mean=tuple(said["mean"]),  # type: ignore[arg-type]
        std=tuple(said["std"]),  # type: ignore[arg-type]
    )
    found = _of_transform(transform)
    note = f"images prepared by the model's timm configuration: {transform.text()}"
    return Prepared(side=found.side, mean=found.mean, std=found.std, options=found.options, note=note)
