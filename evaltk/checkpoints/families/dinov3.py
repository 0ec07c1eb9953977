"""DINOv3: the original's ViTs. Rotary positions need no rule for other sizes; LayerNorms have epsilon 1e-5.

The bias of keys is masked to zero. The head width is four times the number of the file's periods.
Source: dinov3/models/vision_transformer.py, dinov3/layers/rope_position_encoding.py.
"""

from __future__ import annotations

from evaltk.checkpoints import conversion, marks, nets
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import vit
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import CheckpointError
from evaltk.types import EvalView, Recipe

HEADS = {384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32}


def claims(raw: RawFile) -> bool:
    """Storage tokens or periods of a rotation."""
    return marks.owner(raw) == "dinov3"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The only net. Raises: CheckpointError: a file without the storage tokens that all of its nets have."""
    net = nets.choose(raw.nets, options, raw.path)
    if "storage_tokens" not in net.tensors:
        do = "name the whole file"
        raise CheckpointError(wanted="storage_tokens, as in all DINOv3 nets", got="none", where=raw.path, do=do)
    facts = conversion.IMAGENET | {"norm_eps": 1e-5, "heads_of_width": HEADS}
    return conversion.converted(
        raw,
        net,
        vit.dinov3,
        kind="eva",
        view=EvalView(crop=224),
        linear=Recipe(),
        **facts,
    )


FAMILY = Family(name="dinov3", claims=claims, convert=convert)
