"""A state dict that nothing identifies: a net and nothing more, at the top of the file or under `state_dict`.

Anyone may have trained it, so whatever its tensors do not tell is asked for, each by its flag, all in one message:

- heads (`--num-heads`). Even a published width proves nothing: MoCo-v3's ViT-S, converted to this very layout, is 384
  wide with 12 heads, DINO's with 6.
- the epsilon of the LayerNorms (`--norm-eps`), for a ViT. 1e-6 in most papers' code, 1e-5 in torch's default, 1e-12 in
  transformers'.
- pixel mean and standard deviation (`--mean`, `--std`), for every net: timm's AugReg ViTs take 0.5, others ImageNet's.

Not asked for, because the tensors decide it among all published nets:

- a ResNet's BatchNorm has torch's default epsilon, 1e-5, in torchvision, timm and every self-supervised method here.
- an XCiT's heads are the length of its temperatures, and its LayerNorms have epsilon 1e-6 in the only code there is.
- the MLP's activation. Published nets with QuickGELU (CLIP) have a norm before the first block, and such tensors are
  refused as unexpected; all others of these names have GELU.

How a position table is resampled is a choice of the evaluation (`--position`), not of the file.
"""

from __future__ import annotations

from evaltk.checkpoints import state_dicts
from evaltk.checkpoints.families import Family, dino
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.checkpoints.state_dicts import CLASS_HEADS
from evaltk.models import kind


def claims(raw: RawFile) -> bool:
    """A net known here, alone: no branches, no class head, and nothing that DINO's or iBOT's code adds."""
    if state_dicts.own(raw) or any(branch in raw.tree for branch in dino.BRANCHES) or "target_encoder" in raw.tree:
        return False
    flat = state_dicts.one_net(raw.tree, "module.", "backbone.")
    marked = state_dicts.is_ibot(flat) or state_dicts.has_projection_head(flat)
    return kind.recognise(flat) is not None and not marked and not any(key in flat for key in CLASS_HEADS)


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The net's tensors, with nothing fixed that they do not tell."""
    return state_dicts.flat_file(raw.tree, "dino", dino.REST)


FAMILY = Family(name="flat", claims=claims, convert=convert)
