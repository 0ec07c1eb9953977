"""ResNets whose training tells itself: MoCo, SwAV, DeepCluster-v2, Barlow Twins, VICReg, SimSiam, VISSL, MMPretrain.

All of them are torchvision's net and evaluate on 256 px, bilinear, cropped to 224, with ImageNet's statistics. A file
of the bare backbone tells nothing of that and is read by the family `flat`.

Source: moco/main_lincls.py, swav/eval_linear.py, barlowtwins/evaluate.py, vicreg/evaluate.py, simsiam/main_lincls.py.
"""

from __future__ import annotations

from evaltk.checkpoints import conversion, marks, nets
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import resnet
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import HeadWeights, Recipe

HEAD = ("projection_head.", "prototypes.weight")


def claims(raw: RawFile) -> bool:
    """A net of torchvision's names beside what only one of these trainings writes."""
    return marks.owner(raw) == "resnet"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The net that the original probes: the query encoder, never the momentum copy."""
    net = nets.choose(raw.nets, options, raw.path)
    rename = resnet.numbered if net.layout == "sequential_resnet" else resnet.rename
    return conversion.converted(
        raw,
        net,
        rename,
        used=HEAD,
        head=_swav(net),
        view=conversion.BILINEAR,
        linear=Recipe(),
        **conversion.IMAGENET,
    )


def _swav(net: nets.Net) -> HeadWeights | None:
    """SwAV's projection (linear, BatchNorm, ReLU, linear) and prototypes, scored by cosine (swav/src/resnet50.py)."""
    tensors = {
        key.replace("projection_head.", "mlp."): tensor for key, tensor in net.tensors.items() if key.startswith(HEAD)
    }
    if "prototypes.weight" not in tensors or "mlp.0.weight" not in tensors:
        return None
    return HeadWeights(kind="swav", tensors=tensors)


FAMILY = Family(name="resnet", claims=claims, convert=convert)
