"""A folder of timm's hub: config.json names the architecture, its arguments and the preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaltk.checkpoints import conversion
from evaltk.checkpoints.names.renamed import Rename
from evaltk.checkpoints.nets import Net
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.errors import CheckpointError
from evaltk.models import kind as kinds
from evaltk.models.skeleton import on_meta
from evaltk.types import EvalView, OriginProof


def convert(raw: RawFile, net: Net, rename: Rename) -> Converted:
    """The net as the configuration states it: heads, epsilon and activation are read off timm's own of that name.

    Raises: CheckpointError: an architecture that timm does not have or that is no net known here.
    """
    model = _skeleton(raw)
    weights = rename(net.tensors).weights
    kind = kinds.recognise(weights)
    pixels = raw.config.get("pretrained_cfg")
    config: Mapping[str, Any] = pixels if isinstance(pixels, Mapping) else {}
    facts: dict[str, Any] = {}
    if kind is not None and not kind.built_by_name:
        read = kind.of_model(kind.read(kind.rename(weights), raw.path), model)
        facts = {"num_heads": read.num_heads, "norm_eps": read.norm_eps, "activation": read.activation}
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


def _skeleton(raw: RawFile) -> Any:
    import timm

    name, args = str(raw.config.get("architecture")), raw.config.get("model_args")
    try:
        with on_meta():
            return timm.create_model(name, pretrained=False, **(dict(args) if isinstance(args, Mapping) else {}))
    except Exception as error:
        raise CheckpointError(
            wanted="an architecture of timm, as config.json names it",
            got=f"{name!r}: {str(error).splitlines()[0][:120] if str(error) else type(error).__name__}",
            where=raw.path,
            do="install the version of timm that wrote the folder",
        ) from error
