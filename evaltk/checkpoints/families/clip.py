"""CLIP's image tower in OpenAI's layout, which OpenCLIP shares: state dicts, TorchScript archives, training files.

The file does not tell the activation: OpenAI's weights (and OpenCLIP's `-quickgelu` models) have QuickGELU, those of
LAION and DataComp GELU. It is asked. The feature is the class token after the final norm, before the projection.

Source: CLIP/clip/model.py (heads: build_model), open_clip/transformer.py, open_clip/model.py (resize_pos_embed).
"""

from __future__ import annotations

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
    return conversion.converted(
        raw,
        net,
        clip.original,
        norm_eps=1e-5,
        mean=MEAN,
        std=STD,
        heads_of_width={width: heads} if heads else {},
        position="size_aa",
        view=EvalView(margin=1.0),
        linear=Recipe(),
        need=("cls_token", "norm_pre.weight", "norm_pre.bias"),
        activation=None,
        without=("patch_embed.proj.bias",),
    )


FAMILY = Family(name="clip", claims=claims, convert=convert)
