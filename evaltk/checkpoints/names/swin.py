"""Names of Swin transformers as their own code has them (EsViT, MoBY, SimMIM), or timm."""

from __future__ import annotations

import re

from evaltk.checkpoints.names.renamed import Renamed, Rules, Tensors, drop

DROPPED: Rules = (
    (r"(.*\.)?relative_position_index", "index, computed here"),
    (r"layers\.\d+\.blocks\.\d+\.attn_mask", "mask of shifted windows, computed here"),
    (r"mask_token", "mask token"),
    (r"(head|head_dense|head\.fc)\.(weight|bias)", "class head"),
    (r"(head|head_dense)\.(mlp|last_layer)\b.*", "projection head"),
)


def rename(tensors: Tensors) -> Renamed:
    """timm's names: the merging of patches belongs to the stage that it leads to."""
    kept, dropped = drop(tensors, DROPPED)
    if are_timms(kept):
        return Renamed(kept, dropped)
    pattern = re.compile(r"layers\.(\d+)\.downsample\.")
    moved = {pattern.sub(lambda m: f"layers.{int(m[1]) + 1}.downsample.", key): tensor for key, tensor in kept.items()}
    return Renamed(moved, dropped)


def are_timms(tensors: Tensors) -> bool:
    """Whether patches are merged at the start of stages, as timm has named it since 0.9; the others do at their end."""
    found = [re.match(r"layers\.(\d+)\.(downsample|blocks)\.", key) for key in tensors]
    stages = {kind: {int(m[1]) for m in found if m and m[2] == kind} for kind in ("downsample", "blocks")}
    return bool(stages["downsample"]) and max(stages["downsample"]) == max(stages["blocks"], default=-1)
