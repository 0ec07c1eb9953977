"""MoCo-v3: training checkpoints (ViT, with its convolutional stem too, and ResNet-50) and files converted for DeiT.

Its ViTs have 12 heads at every width. A converted file is a plain ViT under `model`, told by its fixed table of
positions, whose order of channels no other code base writes. It evaluates at 224 px alone: there is no rule for others.

Source: moco-v3/vits.py, moco-v3/main_moco.py, moco-v3/convert_to_deit.py.
"""

from __future__ import annotations

from evaltk.checkpoints import conversion, marks, nets
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import resnet, vit
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import Recipe

HEADS = {384: 12, 768: 12}


def claims(raw: RawFile) -> bool:
    """Base and momentum encoder, its stem, or its table of positions."""
    return marks.owner(raw) == "mocov3"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The base encoder, as its linear probe takes it."""
    net = nets.choose(raw.nets, options, raw.path)
    facts = conversion.IMAGENET | {"view": conversion.BILINEAR, "linear": Recipe()}
    if net.layout == "resnet":
        return conversion.converted(raw, net, resnet.rename, **facts)
    facts |= {"norm_eps": 1e-6, "heads_of_width": HEADS, "need": ("cls_token",)}
    return conversion.converted(raw, net, vit.rename, **facts)


FAMILY = Family(name="mocov3", claims=claims, convert=convert)
