"""MAE: encoder files, training checkpoints with the decoder, and fine-tuned nets that pool the mean of patches.

An encoder file is a plain ViT under `model`. It is told by its fixed table of positions, whose order of channels no
other code base writes. Its linear probe is on the class token, behind a BatchNorm without parameters.

Source: mae/models_mae.py, mae/models_vit.py, mae/util/pos_embed.py.
"""

from __future__ import annotations

from evaltk.checkpoints import conversion, marks, nets, timm_training
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import vit
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import Recipe

HEADS = {768: 12, 1024: 16, 1280: 16}
OWN = ("mae_vit_", "vit_base_patch16", "vit_large_patch16", "vit_huge_patch14")  # `args.model` of its nets


def claims(raw: RawFile) -> bool:
    """Its decoder, its table of positions, or the norm of a fine-tuned net."""
    return marks.owner(raw) == "mae"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The encoder."""
    net = nets.choose(raw.nets, options, raw.path)
    facts = conversion.IMAGENET | timm_training.heads_of(raw, vit.rename(net.tensors).weights, HEADS, OWN)
    return conversion.converted(raw, net, vit.rename, position="size", linear=Recipe(), need=("cls_token",), **facts)


FAMILY = Family(name="mae", claims=claims, convert=convert)
