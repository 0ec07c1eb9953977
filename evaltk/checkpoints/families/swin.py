"""Swin transformers of EsViT, MoBY and SimMIM. The feature is the mean of the last grid after the final norm.

Which stages shift their windows is settled by the originals at the size they build the net for: 224 px for EsViT's and
MoBY's published files, 192 for SimMIM's pre-training, told by the patch of 4 px or by masks that the file has. EsViT's
view-level head is DINO's; its region-level head is left out. EsViT's linear probe takes the last four blocks, pooled.

Files in timm's names are read, too. They may be of any training, so their pixel mean and standard deviation are asked
for. They count as built for the smallest image that fills the last stage's window (7: 224 px, 12: 384), as timm's are.

Source: esvit/models/swin_transformer.py, Transformer-SSL/models/moby.py, SimMIM/models/simmim.py.
"""

from __future__ import annotations

import math

from evaltk.checkpoints import conversion, marks, nets, state_dicts
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import swin
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import HeadWeights, Recipe

HEAD = ("head.mlp.", "head.last_layer.")  # view-level
PATCH, SIZE = 4, 224  # of all published files


def claims(raw: RawFile) -> bool:
    """Tables of relative positions by stage, in the names of Swin's own code."""
    return marks.owner(raw) == "swin"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The teacher of EsViT, the encoder of MoBY and SimMIM, or the only net."""
    net = nets.choose(raw.nets, options, raw.path)
    if swin.are_timms(net.tensors):  # a bare file of any training: pixels are asked for
        return conversion.converted(raw, net, swin.rename, norm_eps=1e-5)
    head = _head(raw, net)
    esvit = "dino_loss" in raw.tree or head is not None
    return conversion.converted(
        raw,
        net,
        swin.rename,
        head=head,
        used=HEAD,
        norm_eps=1e-5,
        img_size=_size(net),
        linear=Recipe(last=4) if esvit else Recipe(),
        **conversion.IMAGENET,
    )


def _size(net: nets.Net) -> int | None:
    """The size the net was built for: by the windows that a mask counts, else 224 px for patches of 4."""
    patches = net.tensors.get("patch_embed.proj.weight")
    if patches is None or patches.ndim != 4:
        return None
    mask = net.tensors.get("layers.0.blocks.1.attn_mask")
    table = net.tensors.get("layers.0.blocks.1.attn.relative_position_bias_table")
    if mask is not None and mask.ndim == 3 and table is not None and table.ndim == 2:
        return math.isqrt(mask.shape[0]) * ((math.isqrt(table.shape[0]) + 1) // 2) * patches.shape[2]
    return SIZE if patches.shape[2] == PATCH else None


def _head(raw: RawFile, net: nets.Net) -> HeadWeights | None:
    """EsViT's view-level head, with its centre."""
    flat = {key: t for key, t in net.tensors.items() if key.startswith(HEAD)}
    _, head, _ = state_dicts.split_head(flat, "dino", state_dicts.center(raw.tree.get("dino_loss"), "center"))
    return head


FAMILY = Family(name="swin", claims=claims, convert=convert)
