"""config.json and preprocessor_config.json of transformers, as far as they decide features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from evaltk.checkpoints.rawfile import RawFile
from evaltk.errors import CheckpointError, some
from evaltk.types import EvalView, Interpolation

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "quickgelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
LEVEL, CLOSE = 1 / 255, 1e-3  # what a level of 8 bits counts, and the relative difference of a rounded factor
FILTERS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # of PIL, as `resample` numbers them


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the two files state; None and {} where they do not.

    Attributes:
        model_type: of the image model. heads, eps, activation: of the net.
        stated: {field of `Arch`: its value} for comparison with the tensors.
        mean, std, view: of the images.
        notes: for the reader.
    """

    model_type: str | None = None
    heads: int | None = None
    eps: float | None = None
    activation: str | None = None
    stated: Mapping[str, object] = field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    view: EvalView | None = None
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What is stated, as keywords of `Converted`."""
        named = {
            "num_heads": self.heads,
            "norm_eps": self.eps,
            "activation": self.activation,
            "mean": self.mean,
            "std": self.std,
            "view": self.view,
        }
        return {key: value for key, value in named.items() if value is not None}


def read(raw: RawFile) -> Config:
    """The configuration of the image model. Raises: CheckpointError: a value that no net has."""
    whole = raw.config
    inner = whole.get("vision_config")
    config = {**whole, **inner} if isinstance(inner, Mapping) else whole
    model_type = config.get("model_type")
    if isinstance(inner, Mapping) and "model_type" not in inner:
        model_type = f"{whole.get('model_type')}_vision_model"
    heads = _number(raw, config, "num_attention_heads")
    act = config.get("hidden_act")
    if act is not None and (not isinstance(act, str) or act not in ACTIVATIONS):
        raise _odd(raw, "hidden_act", act, f"one of {', '.join(ACTIVATIONS)}")
    eps = config.get("layer_norm_eps")
    if eps is not None and (not isinstance(eps, int | float) or isinstance(eps, bool) or not 0 < eps < 1):
        raise _odd(raw, "layer_norm_eps", eps, "a number in (0, 1)")
    mean, std = _pixels(raw)
    return Config(
        model_type=str(model_type) if model_type is not None else None,
        heads=int(heads) if heads is not None else None,
        eps=float(eps) if eps is not None else None,
        activation=ACTIVATIONS[act] if isinstance(act, str) else None,
        stated=_stated(raw, config),
        mean=mean,
        std=std,
        view=_view(raw),
        notes=(*(("heads, epsilon and activation as config.json states",) if raw.config else ()), *_notes(raw)),
    )


def refuse(raw: RawFile, kind: str, known: Sequence[str]) -> NoReturn:
    """Raises: CheckpointError: a model that is not read here."""
    raise CheckpointError(
        wanted=f"one of transformers' image models {', '.join(known)}",
        got=f"model_type {kind!r}",
        where=raw.path,
        do="name another folder, or pass the net to evaltk.evaluate in Python",
    )


def _stated(raw: RawFile, config: Mapping[str, object]) -> dict[str, object]:
    """What the tensors tell too, for comparison."""
    names = {
        "embed_dim": "hidden_size",
        "depth": "num_hidden_layers",
        "patch_size": "patch_size",
        "registers": "num_register_tokens",
    }
    if config.get("model_type") == "swin":
        # hidden_size is that of the last stage; depths and heads are lists, and in the tensors.
        size = _number(raw, config, "image_size")
        return {} if size is None else {"img_size": size}
    found = {ours: _number(raw, config, theirs) for ours, theirs in names.items()}
    if config.get("model_type") not in ("dinov3_vit",):
        found["img_size"] = _number(raw, config, "image_size")
    if config.get("model_type") not in ("dinov2_with_registers", "dinov3_vit"):
        found.pop("registers")
    stated: dict[str, object] = {key: value for key, value in found.items() if value is not None}
    hidden, width = _number(raw, config, "intermediate_size"), stated.get("embed_dim")
    gated = config.get("use_swiglu_ffn") or config.get("use_gated_mlp")
    dinov2 = str(config.get("model_type", "")).startswith("dinov2")
    if hidden is not None and isinstance(width, int) and not gated and not dinov2:
        stated["mlp_ratio"] = hidden / width
    return stated


def _number(raw: RawFile, config: Mapping[str, object], name: str) -> int | None:
    value = config.get(name)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if value is None or isinstance(value, list):
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**6:
        raise _odd(raw, name, value, "a whole number")
    return value


def _pixels(raw: RawFile) -> tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]:
    """(mean, std) of pixels in [0, 1]. Raises: CheckpointError: a processor that makes other pixels of images."""
    said = raw.preprocessor
    factor = said.get("rescale_factor", LEVEL)
    if said.get("do_rescale") is False or not isinstance(factor, int | float) or abs(factor / LEVEL - 1) > CLOSE:
        got = "do_rescale: false" if said.get("do_rescale") is False else factor
        raise _odd(raw, "rescale_factor", got, "1/255, pixels from 0 to 1")
    if said.get("do_flip_channel_order"):
        raise _odd(raw, "do_flip_channel_order", True, "false, images in RGB")
    if said.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _triple(raw, "image_mean"), _triple(raw, "image_std")


def _triple(raw: RawFile, name: str) -> tuple[float, float, float] | None:
    said = raw.preprocessor.get(name)
    if said is None:
        return None
    lowest = 0 if name == "image_mean" else 1e-6
    values = [float(v) for v in said if isinstance(v, int | float)] if isinstance(said, list) else []
    if len(values) != 3 or not all(lowest <= v <= 1 for v in values):
        raise _odd(raw, name, said, "three numbers of [0, 1], R G B")
    red, green, blue = values
    return red, green, blue


def _view(raw: RawFile) -> EvalView | None:
    """How the processor makes images: its resize and its crop."""
    said = raw.preprocessor
    size, crop = said.get("size"), said.get("crop_size")
    if isinstance(size, int):
        size = {"shortest_edge": size} if said.get("do_center_crop") else {"height": size, "width": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    if not isinstance(size, Mapping):
        return None
    resample = said.get("resample")
    interpolation: Interpolation = FILTERS.get(resample, "bicubic") if isinstance(resample, int) else "bicubic"
    short, high = size.get("shortest_edge"), size.get("height")
    if isinstance(short, int) and short > 0:
        side = crop.get("height") if isinstance(crop, Mapping) and said.get("do_center_crop", True) else short
        side = side if isinstance(side, int) and 0 < side <= short else short
        return EvalView(crop=side, margin=short / side, interpolation=interpolation)
    if isinstance(high, int) and high > 0 and size.get("width") == high:
        side = crop.get("height") if isinstance(crop, Mapping) and said.get("do_center_crop") else high
        side = side if isinstance(side, int) and 0 < side <= high else high
        return EvalView(crop=side, margin=high / side, interpolation=interpolation, square=True)
    return None


def _notes(raw: RawFile) -> tuple[str, ...]:
    """What of the processor is not followed."""
    resample = raw.preprocessor.get("resample")
    if "size" not in raw.preprocessor or (isinstance(resample, int) and resample in FILTERS):
        return ()
    told = "says no filter" if resample is None else f"asks for Pillow's filter {str(resample)[:20]}"
    return (f"preprocessor_config.json {told}: images are resized bicubic",)


def _odd(raw: RawFile, name: str, value: object, wanted: str) -> CheckpointError:
    return CheckpointError(
        wanted=f"{name}: {wanted}", got=some([repr(value)[:60]]), where=raw.path, do="mend the folder's configuration"
    )
