"""BEiT, BEiT-v2 and data2vec-vision: pre-trained files and fine-tuned ones.

Heads are the columns of the tables of relative positions. Nets have a fixed size: the original has no rule for others.
Pixels have mean and deviation 0.5 in BEiT's pre-training and ImageNet's in BEiT-v2's, which is told by its blocks for
pre-training alone. Fine-tuned files and data2vec's, whose head predicts features, tell nothing: they are asked for. The
linear probe is on the class token beside the mean of patches of a block, without the final norm (the original tries
every block; here it is the last).

Source: unilm/beit/modeling_finetune.py, modeling_pretrain.py, run_linear_eval.py, datasets.py.
"""

from __future__ import annotations

from typing import Any

from evaltk.checkpoints import conversion, marks, nets
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import vit
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import Recipe

HEADS = {768: 12, 1024: 16}


def claims(raw: RawFile) -> bool:
    """Biases of query and value alone, in timm's names."""
    return marks.owner(raw) == "beit"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The net without what was for pre-training."""
    net = nets.choose(raw.nets, options, raw.path)
    tuned = _tuned(net)
    final = "fc_norm.weight" if "fc_norm.weight" in net.tensors else "norm.weight"
    return conversion.converted(
        raw,
        net,
        vit.beit,
        norm_eps=1e-6,
        heads_of_width=HEADS,
        linear=None if tuned else Recipe(tokens="cls+mean", norm=False),
        need=("cls_token", final, *(() if conversion.has_positions(net) else (conversion.TABLE,))),
        **_pixels(net),
    )


def _tuned(net: nets.Net) -> bool:
    return "fc_norm.weight" in net.tensors or conversion.has_class_head(net)


def _pixels(net: nets.Net) -> dict[str, Any]:
    """Pixel statistics of the pre-training, {} where the file does not tell which it was."""
    if any(key.startswith("cls_pt_layers.") for key in net.tensors):
        return conversion.IMAGENET
    head = net.tensors.get("lm_head.weight")
    if _tuned(net) or head is None or head.ndim != 2 or head.shape[0] == head.shape[1]:
        return {}
    return conversion.HALF


FAMILY = Family(name="beit", claims=claims, convert=convert)
