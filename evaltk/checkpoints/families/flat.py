"""A net that nothing identifies: bare, or in the file of a framework (Lightning, lightly, solo-learn, MMPretrain).

Anyone may have trained it, so whatever its tensors do not tell is asked for, each by its flag, all in one message:

- heads (`--num-heads`). Even a published width proves nothing: MoCo-v3's ViT-S, converted to this very layout, is 384
  wide with 12 heads, DINO's with 6.
- the epsilon of the LayerNorms (`--norm-eps`), for a ViT. 1e-6 in most papers' code, 1e-5 in torch's default, 1e-12 in
  transformers'.
- the stem of a ResNet (`--stem`) whose first convolution is 3 x 3: its padding is in no tensor.
- pixel mean and standard deviation (`--mean`, `--std`), for every net: timm's AugReg ViTs take 0.5, others ImageNet's.
  MMPretrain's files and timm's training files may state them.
- how positions are resized (`--position`), once images of another size than the net's are to be evaluated.

Not asked for, because the tensors decide it among all published nets:

- a ResNet's BatchNorm has torch's default epsilon, 1e-5, in torchvision, timm and every self-supervised method here.
- an XCiT's heads are the length of its temperatures, and its LayerNorms have epsilon 1e-6 in the only code there is.
- the MLP's activation. Published nets with QuickGELU (CLIP) have a norm before the first block and other names; all
  others of these names have GELU. `--activation` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaltk.checkpoints import conversion, marks, nets, state_dicts
from evaltk.checkpoints.families import Family, dino
from evaltk.checkpoints.names import resnet, vit
from evaltk.checkpoints.names.renamed import Rename
from evaltk.checkpoints.nets import Net
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import OriginProof

PREPROCESSOR = "data_preprocessor."  # MMPretrain's, of pixels from 0 to 255


def claims(raw: RawFile) -> bool:
    """A net known here without a class head, and nothing that DINO's or iBOT's code adds."""
    marked = any(state_dicts.is_ibot(net.tensors) or _projection(raw, net) for net in raw.nets)
    return unmarked(raw) and not marked and not any(conversion.has_class_head(net) for net in raw.nets)


def unmarked(raw: RawFile) -> bool:
    """A net known here, in no layout that one family's training writes."""
    if state_dicts.own(raw) or marks.owner(raw) or not raw.nets or "architecture" in raw.config:
        return False
    return not any(branch in raw.tree for branch in dino.BRANCHES) and "target_encoder" not in raw.tree


def _projection(raw: RawFile, net: Net) -> bool:
    """DINO's or iBOT's head on a net or beside it, which their families read."""
    if net.layout not in ("vit", "resnet", "xcit") or conversion.LIGHTNING in raw.tree:
        return False
    beside = net.beside if net.prefix == "backbone." else {}
    return state_dicts.has_projection_head({**net.tensors, **beside})


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The net's tensors, with nothing fixed that they do not tell."""
    net = nets.choose(raw.nets, options, raw.path)
    return conversion.converted(raw, net, rename_of(net), origin_proof=OriginProof.NONE, **pixels(raw, net))


def rename_of(net: Net) -> Rename:
    """What gives timm's names, by the layout of the net."""
    known: dict[str, Rename] = {
        "sequential_resnet": resnet.numbered,
        "resnet": resnet.rename,
        "mm_vit": vit.mmpretrain,
        "tv_vit": vit.torchvision,
        "xcit": vit.without_class_head,
    }
    return known.get(net.layout, vit.rename)


def pixels(raw: RawFile, net: Net) -> dict[str, Any]:
    """Pixel statistics where the file states them: buffers of MMPretrain, arguments of timm's training."""
    args = state_dicts.settings(raw.tree)
    found: dict[str, Any] = {}
    for name in ("mean", "std"):
        buffer = net.beside.get(f"{PREPROCESSOR}{name}")
        said = [float(v) / 255 for v in buffer.flatten()] if buffer is not None else args.get(name)
        if isinstance(said, Sequence) and len(said) == 3 and all(isinstance(v, float) and 0 < v <= 1 for v in said):
            found[name] = tuple(said)
    if found:
        found["notes"] = ("pixel statistics as the file states them",)
    return found


FAMILY = Family(name="flat", claims=claims, convert=convert, generic=True)
