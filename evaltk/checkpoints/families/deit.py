"""DeiT, also distilled, and DeiT-III: classifiers under `model`.

The feature is the class token, of a distilled net too. DeiT-III has no position for it and layer scale, and evaluates
224 px without a margin.

Source: deit/models.py, deit/models_v2.py, deit/main.py (positions of another size, when fine-tuning).
"""

from __future__ import annotations

from evaltk.checkpoints import conversion, marks, nets, timm_training
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import vit
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import EvalView, Recipe

HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16}
OWN = ("deit_",)  # `args.model` of its nets; main.py can make any other of timm's registry


def claims(raw: RawFile) -> bool:
    """A distillation token, layer scale beside a joint bias, or a class head under `model`."""
    return marks.owner(raw) == "deit"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The net without its classifiers."""
    net = nets.choose(raw.nets, options, raw.path)
    third = any(key.endswith(".gamma_1") for key in net.tensors)
    distilled = "head_dist.weight" in net.tensors
    named = timm_training.heads_of(raw, vit.deit(net.tensors).weights, HEADS, OWN)
    return conversion.converted(
        raw,
        net,
        vit.deit,
        position="size",
        view=EvalView(margin=1.0) if third else EvalView(),
        linear=Recipe(),
        need=("cls_token", "dist_token") if distilled else ("cls_token",),
        **conversion.IMAGENET,
        **named,
    )


FAMILY = Family(name="deit", claims=claims, convert=convert)
