"""I-JEPA: training files with encoder, target encoder and predictor.

The target encoder is taken, which the paper evaluates; transformers' and timm's conversions are of `--branch encoder`.
The feature is the mean of patches after the final norm: there is no class token. The original runs at its native size
alone; transformers' rule for others is `size`.

Source: ijepa/src/models/vision_transformer.py, ijepa/src/train.py (save_checkpoint).
"""

from __future__ import annotations

from evaltk.checkpoints import conversion, marks, nets
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import vit
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import Recipe

HEADS = {1280: 16, 1408: 16}


def claims(raw: RawFile) -> bool:
    """Encoder, target encoder and predictor side by side."""
    return marks.owner(raw) == "ijepa"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The chosen encoder."""
    net = nets.choose(raw.nets, options, raw.path)
    facts = conversion.IMAGENET | {"norm_eps": 1e-6, "heads_of_width": HEADS}
    return conversion.converted(raw, net, vit.rename, linear=Recipe(), without=("cls_token",), **facts)


FAMILY = Family(name="ijepa", claims=claims, convert=convert)
