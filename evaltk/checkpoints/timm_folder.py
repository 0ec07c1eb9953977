"""A folder of timm's hub: config.json names the architecture, its arguments and the preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evaltk.checkpoints import conversion
from evaltk.checkpoints.names.renamed import Rename
from evaltk.checkpoints.nets import Net
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.errors import CheckpointError
from evaltk.models import kind as kinds
from evaltk.models.skeleton import undrawn
from evaltk.seeding import generator
from evaltk.types import Arch, EvalView, OriginProof

TOLERANCE = 1e-4  # of the rebuilt net's features against timm's own, relative


def convert(raw: RawFile, net: Net, rename: Rename) -> Converted:
    """The net as the configuration states it: heads, epsilon and activation are read off timm's own of that name.

    Raises: CheckpointError: an architecture that timm does not have or that is no net known here.
    """
    weights = rename(net.tensors).weights
    kind = kinds.recognise(weights)
    pixels = raw.config.get("pretrained_cfg")
    config: Mapping[str, Any] = pixels if isinstance(pixels, Mapping) else {}
    facts: dict[str, Any] = {}
    if kind is not None:
        model, arch = _model(raw), kind.read(kind.rename(weights), raw.path)
        if other := differences(model, weights):
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            raise CheckpointError(
                wanted=f"tensors of {raw.config.get('architecture')}, as config.json names it",
                got=f"{other[0]}{more}",
                where=raw.path,
                do="take config.json and weights of one repository, or name the weight file alone",
            )
        arch = kind.of_model(arch, model)
        if not kind.built_by_name:
            facts = {"num_heads": arch.num_heads, "norm_eps": arch.norm_eps, "activation": arch.activation}
            facts |= {"pool": arch.pool} | ({} if kind.sized_by_tensors else {"img_size": arch.img_size})
        model.load_state_dict(dict(weights), strict=True)
        verify(model, arch, weights, raw.path)
    for name in ("mean", "std"):
        said = config.get(name)
        if isinstance(said, list) and len(said) == 3 and all(isinstance(v, int | float) for v in said):
            facts[name] = tuple(float(v) for v in said)
    return conversion.converted(
        raw,
        net,
        rename,
        position="size_aa",  # timm's own resampling
        view=view(config),
        origin_proof=OriginProof.NONE,
        notes=("architecture and pixels as config.json states",),
        **facts,
    )


def differences(model: Any, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """In what weights in timm's names are not the model's, a line a tensor."""
    own = model.state_dict()
    missing = [f"no {key}" for key in own if key not in weights]
    unknown = [f"{key}, which it lacks" for key in weights if key not in own]
    shapes = [
        f"{key} {list(weights[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in own.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    return [*shapes, *missing, *unknown]


def view(config: Mapping[str, Any]) -> EvalView:
    """timm's preprocessing: the crop is `crop_pct` of the resize."""
    size, share, filter_ = (config.get(name) for name in ("input_size", "crop_pct", "interpolation"))
    side = size[-1] if isinstance(size, list | tuple) and size and isinstance(size[-1], int) else None
    margin = 1 / share if isinstance(share, int | float) and 0 < share <= 1 else 256 / 224
    return EvalView(
        crop=side,
        margin=margin,
        interpolation="bilinear" if filter_ == "bilinear" else "bicubic",
        square=config.get("crop_mode") == "squash",
    )


def verify(model: Any, arch: Arch, weights: Mapping[str, torch.Tensor], where: Path) -> None:
    """The net as it is rebuilt here gives timm's own features. Raises: CheckpointError: it is a net of another kind.

    Names and shapes do not tell everything: another activation or a blurred pooling has the same tensors.
    """
    kind = kinds.of(arch.kind)
    side = kind.native_side(arch)
    images = torch.randn(1, 3, side, side, generator=generator(0, "timm", arch.name))
    with torch.inference_mode():
        wanted = model.eval().forward_features(images)
        got = kind.forward_features(kind.build(arch, weights, position=None).eval(), images)
    if got.shape != wanted.shape or float((got - wanted).abs().max()) > TOLERANCE * float(wanted.abs().max()):
        raise CheckpointError(
            wanted="a ViT, ResNet or another net of a kind known here",
            got=f"{type(model).__name__}, whose features differ from such a net's with the same weights",
            where=where,
            do="name another model",
        )


def _model(raw: RawFile) -> Any:
    """timm's net of the architecture and arguments that the configuration states, without a class head."""
    name, args = str(raw.config.get("architecture")), raw.config.get("model_args")
    try:
        return built(name, args if isinstance(args, Mapping) else {})
    except Exception as error:
        raise CheckpointError(
            wanted="an architecture of timm, as config.json names it",
            got=f"{name!r}: {str(error).splitlines()[0][:120] if str(error) else type(error).__name__}",
            where=raw.path,
            do="install the version of timm that wrote the folder",
        ) from error


def built(name: str, args: Mapping[str, Any]) -> Any:
    """timm's net of that name and arguments, without a class head. Raises: whatever timm does."""
    import timm

    with undrawn():
        return timm.create_model(name, pretrained=False, **{**args, "num_classes": 0})
