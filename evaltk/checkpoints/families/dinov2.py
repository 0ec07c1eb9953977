"""DINOv2: backbone files with or without registers, and `teacher_checkpoint.pth` of its own training.

The rule for positions hangs on registers: with them the original resizes antialiased and without DINO's offset. Its
table is of 518 px, so at 224 px it is always resampled. Linear probes of the original search over features; the class
token beside the mean of patches is that of its published `_linear_head` files.

Source: dinov2/models/vision_transformer.py (interpolate_pos_encoding), dinov2/hub/backbones.py (interpolate_offset).
"""

from __future__ import annotations

from functools import partial

from evaltk.checkpoints import conversion, marks, nets, state_dicts
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import vit
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import EvalView, HeadWeights, Recipe

HEADS = {384: 6, 768: 12, 1024: 16, 1536: 24}
TABLE_SIDE, CROP = 37, 224  # patches along a side of the published table; px of its evaluations
HEAD = "dino_head."


def claims(raw: RawFile) -> bool:
    """Layer scale beside a mask token of two dimensions, registers, or blocks in chunks."""
    return marks.owner(raw) == "dinov2"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The teacher, or the only net; DINO's head of a training file."""
    net = nets.choose(raw.nets, options, raw.path)
    registers = "register_tokens" in net.tensors
    published = net.tensors["pos_embed"].shape[1:2] == (TABLE_SIDE**2 + 1,) if "pos_embed" in net.tensors else False
    facts = conversion.IMAGENET | {"norm_eps": 1e-6, "heads_of_width": HEADS}
    return conversion.converted(
        raw,
        net,
        partial(vit.rename, rules=tuple(rule for rule in vit.RULES if "mask_token" not in rule[0])),
        head=_head(net),
        used=(HEAD,),
        position="size_aa" if registers else "dino",
        view=EvalView(crop=CROP if published else None),
        linear=Recipe(tokens="cls+mean"),
        **facts,
    )


def _head(net: nets.Net) -> HeadWeights | None:
    tensors = {}
    for key, tensor in net.beside.items():
        if key.startswith(f"{HEAD}mlp."):
            tensors[key.removeprefix(HEAD)] = tensor
        elif key.startswith(f"{HEAD}last_layer."):
            tensors["prototypes." + state_dicts.weight_norm_name(key.removeprefix(f"{HEAD}last_layer."))] = tensor
    return HeadWeights(kind="dino", tensors=tensors) if tensors else None


FAMILY = Family(name="dinov2", claims=claims, convert=convert)
