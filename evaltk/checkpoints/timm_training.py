"""A file of timm's train.py: its `arch` and `args` say which net it holds and how images were prepared for it.

The trainings of DeiT and MAE make their nets by timm's registry too, and their files hold `args.model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evaltk.checkpoints import state_dicts, timm_folder
from evaltk.checkpoints.rawfile import RawFile
from evaltk.models import kind as kinds

VERSION = 2  # CheckpointSaver's, since 2019


def stated(raw: RawFile, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the file states of the net with these tensors in timm's names, for `conversion.converted`; {} for others.

    Heads, epsilon and activation are read off timm's own net of that name and arguments. Where its tensors are others,
    only the heads are, and only if it is as wide; a note says so. Mean, std and view are resolved by timm from the
    arguments of the training, as train.py does.
    """
    args, name = state_dicts.settings(raw.tree), raw.tree.get("arch")
    if raw.tree.get("version") != VERSION or not isinstance(name, str) or "model" not in args:
        return {}
    model = _model(name, args)
    kind = kinds.recognise(weights)
    if model is None or kind is None:
        return {}
    facts: dict[str, Any] = {"notes": (f"{name}, as the file's arch and args state",), "position": "size_aa"}
    facts |= _net(name, model, kind, weights, raw.path)
    return facts | _pixels(args, model)


def heads_of(
    raw: RawFile, weights: Mapping[str, torch.Tensor], of_width: Mapping[int, int], own: tuple[str, ...]
) -> dict[str, Any]:
    """Heads and epsilon of a net that a training of DeiT's or MAE's wrote, for `conversion.converted`.

    They are the family's where `args.model` begins with a name of its own (`own`) or there is none, and those of timm's
    net where it is timm's. Any other name is of a net that nothing here knows: {}, so that they are asked for.
    """
    name = state_dicts.settings(raw.tree).get("model")
    if not isinstance(name, str) or name.startswith(own):
        return {"norm_eps": 1e-6, "heads_of_width": of_width}
    model, kind = _model(name, {}), kinds.recognise(weights)
    if model is None or kind is None:
        return {"notes": (f"the file calls its net {name}, which is not known here",)}
    return {"notes": (f"{name}, as the file's args state",)} | _net(name, model, kind, weights, raw.path)


def _net(name: str, model: Any, kind: Any, weights: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """What timm's net of the name that a file gives tells of its tensors: all, only the heads, or nothing."""
    arch = kind.read(kind.rename(weights), path)
    differ = timm_folder.differences(model, weights)
    other = f"the file calls itself {name}, whose tensors are others ({', '.join(differ[:1])})"
    if not kind.built_by_name and not differ:
        arch = kind.of_model(arch, model)
        facts = {"num_heads": arch.num_heads, "norm_eps": arch.norm_eps, "activation": arch.activation}
        return facts | {"pool": arch.pool} | ({} if kind.sized_by_tensors else {"img_size": arch.img_size})
    if not kind.built_by_name and getattr(model, "embed_dim", None) == arch.embed_dim:
        heads = kind.of_model(arch, model).num_heads
        return {"num_heads": heads, "notes": (f"{other}: only its {heads} heads are taken",)}
    return {"notes": (f"{other}: set aside",)} if differ else {}


def _model(name: str, args: Mapping[str, Any]) -> Any:
    """timm's net as train.py makes it, without a class head; None: timm has none of that name, or not with these."""
    import timm

    given = args.get("model_kwargs")
    more = {"global_pool": args["gp"]} if isinstance(args.get("gp"), str) else {}
    if not timm.is_model(name.partition(".")[0]):
        return None
    try:
        return timm_folder.built(name, {**more, **(given if isinstance(given, Mapping) else {})})
    except Exception:  # noqa: BLE001 (any argument may be one that this version of timm's net does not take)
        return None


def _pixels(args: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Mean, std and view as train.py resolves them from its arguments and the net's defaults."""
    if not {"mean", "std", "crop_pct"} <= set(args):
        return {}
    from timm.data import resolve_data_config

    config = resolve_data_config(dict(args), pretrained_cfg=model.pretrained_cfg)
    mean, std = (tuple(float(v) for v in config[name]) for name in ("mean", "std"))
    return {"mean": mean, "std": std, "view": timm_folder.view(config)} if len(mean) == len(std) == 3 else {}
