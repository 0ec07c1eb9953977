"""Names of Swin transformers as their own code has them (EsViT, MoBY, SimMIM)."""

from __future__ import annotations

import re

from evaltk.checkpoints.names.renamed import Renamed, Rules, Tensors, drop

DROPPED: Rules = (
    (r"(.*\.)?relative_position_index", "index, computed here"),
    (r"layers\.\d+\.blocks\.\d+\.attn_mask", "mask of shifted windows, computed here"),
    (r"mask_token", "mask token"),
    (r"(head|head_dense)\.(weight|bias)", "class head"),
    (r"(head|head_dense)\.(mlp|last_layer)\b.*", "projection head"),
)


def rename(tensors: Tensors) -> Renamed:
    """timm's names: the merging of patches belongs to the stage that it leads to."""
    kept, dropped = drop(tensors, DROPPED)
    pattern = re.compile(r"layers\.(\d+)\.downsample\.")
    moved = {pattern.sub(lambda m: f"layers.{int(m[1]) + 1}.downsample.", key): tensor for key, tensor in kept.items()}
    return Renamed(moved, dropped)
