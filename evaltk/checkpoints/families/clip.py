"""CLIP's image tower in OpenAI's layout, which OpenCLIP shares: state dicts, TorchScript archives, training files.

The file does not tell the activation: OpenAI's weights (and OpenCLIP's `-quickgelu` models) have QuickGELU, those of
LAION and DataComp GELU. It is asked. The feature is the class token after the final norm, before the projection.

Source: CLIP/clip/model.py (heads: build_model), open_clip/transformer.py, open_clip/model.py (resize_pos_embed).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaltk.checkpoints import conversion, marks, nets
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import clip
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import EvalView, Recipe

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64  # but for OpenCLIP's largest
LARGE = {1280: 16, 1408: 16, 1664: 16}


def claims(raw: RawFile) -> bool:
    """A tower of residual attention blocks on patches."""
    return marks.owner(raw) == "clip"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The image tower."""
    net = nets.choose(raw.nets, options, raw.path)
    norm = net.tensors.get("ln_post.weight")
    width = norm.shape[0] if norm is not None and norm.ndim == 1 else 0
    heads = LARGE.get(width, width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 0)
    facts: dict[str, Any] = {"mean": MEAN, "std": STD, "activation": None} | stated(raw, width)
    return conversion.converted(
        raw,
        net,
        clip.original,
        norm_eps=1e-5,
        heads_of_width={width: heads} if heads else {},
        position="size_aa",
        view=EvalView(margin=1.0),
        linear=Recipe(),
        need=("cls_token", "norm_pre.weight", "norm_pre.bias"),
        without=("patch_embed.proj.bias",),
        **facts,
    )


def stated(raw: RawFile, width: int) -> dict[str, Any]:
    """What OpenCLIP's open_clip_config.json states: activation, head width and pixels; {} without one."""
    model, pixels = raw.config.get("model_cfg"), raw.config.get("preprocess_cfg")
    if not isinstance(model, Mapping):
        return {}
    vision = model.get("vision_cfg")
    tower: Mapping[str, Any] = vision if isinstance(vision, Mapping) else {}
    head_width = tower.get("head_width", HEAD_WIDTH)
    found: dict[str, Any] = {"activation": "quickgelu" if model.get("quick_gelu") is True else "gelu"}
    if isinstance(head_width, int) and head_width > 0 and width % head_width == 0:
        found["num_heads"] = width // head_width
    found["stated"] = {
        ours: tower[theirs]
        for ours, theirs in {"embed_dim": "width", "depth": "layers", "patch_size": "patch_size"}.items()
        if isinstance(tower.get(theirs), int)
    }
    for name in ("mean", "std"):
        said = pixels.get(name) if isinstance(pixels, Mapping) else None
        if isinstance(said, list) and len(said) == 3 and all(isinstance(v, int | float) and 0 <= v <= 1 for v in said):
            found[name] = tuple(float(v) for v in said)
    return found | {"notes": ("activation, heads and pixels as open_clip_config.json states",)}


FAMILY = Family(name="clip", claims=claims, convert=convert)
