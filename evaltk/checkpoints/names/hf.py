"""Names of transformers' ViTs: ViT, DINO, MSN, MAE, Dinov2 (with registers), DINOv3, I-JEPA, BEiT, data2vec, Swin.

Version 5 renamed modules; what it saves by `save_pretrained` has the old names, its `state_dict()` the new ones.
"""

from __future__ import annotations

import re

import torch

from evaltk.checkpoints.names.renamed import Renamed, Rules, Tensors, drop, fuse, substitute

DROPPED: Rules = (
    (r"embeddings\.mask_token", "mask token"),
    (r"pooler\.dense\.(weight|bias)", "pooler, which no published feature uses"),
    (r"(.*\.)?relative_position_index", "index, computed here"),
    (r"rope_embeddings\.inv_freq", "frequencies, computed here"),
)
NAMES: Rules = (
    (r"^model\.layer\.", "layer."),  # DINOv3 in version 5
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"^layernorm\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.(o_proj|out_proj)\.", ".attn.proj."),
    (r"\.attention\.(attention\.)?(query|q_proj)\.", ".attn.query."),
    (r"\.attention\.(attention\.)?(key|k_proj)\.", ".attn.key."),
    (r"\.attention\.(attention\.)?(value|v_proj)\.", ".attn.value."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.lambda_([12])$", r".gamma_\1"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.(weights_in|up_proj)\.", ".mlp.fc1."),
    (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
)
QKV = ("query", "key", "value")


def vit(tensors: Tensors) -> Renamed:
    """timm's names for a plain ViT, with or without registers, layer scale and gated MLPs."""
    kept, dropped = drop(tensors, DROPPED)
    return Renamed(fuse(substitute(kept, NAMES), QKV, "qkv"), dropped)


def beit(tensors: Tensors) -> Renamed:
    """timm's names for BEiT and data2vec-vision; the key has no bias."""
    kept, dropped = drop(tensors, DROPPED)
    out = fuse(substitute(kept, NAMES), QKV, "qkv", zeros=("key",))
    return Renamed(_split_biases(out) if any("position_bias_table" in k for k in out) else _plain(out), dropped)


def dinov3(tensors: Tensors) -> Renamed:
    """timm's names for DINOv3; the gate comes first in fc1."""
    kept, dropped = drop(tensors, DROPPED)
    out = substitute(kept, (*NAMES, (r"\.ls([12])\.gamma$", r".gamma_\1")))
    if any(".mlp.gate_proj." in key for key in out):
        out = fuse(out, ("mlp.gate_proj", "mlp.fc1"), "mlp.gated")
        out = substitute(out, ((r"\.mlp\.gated\.", ".mlp.fc1."),))
    return Renamed(_split_biases(fuse(out, QKV, "qkv", zeros=("key",))), dropped)


def swin(tensors: Tensors) -> Renamed:
    """The names of Swin's own code, see `swin.rename`."""
    names: Rules = (
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.norm\.", "patch_embed.norm."),
        (r"^encoder\.layers\.", "layers."),
        (r"^layernorm\.", "norm."),
        (r"\.attention\.(self\.)?relative_position_bias_table$", ".attn.relative_position_bias_table"),
        (r"\.attention\.(self\.)?relative_position_bias\.relative_position_bias_table$",
         ".attn.relative_position_bias_table"),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.attention\.(o_proj|out_proj)\.", ".attn.proj."),
        (r"\.attention\.(self\.)?(query|q_proj)\.", ".attn.query."),
        (r"\.attention\.(self\.)?(key|k_proj)\.", ".attn.key."),
        (r"\.attention\.(self\.)?(value|v_proj)\.", ".attn.value."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    )  # fmt: skip
    kept, dropped = drop(tensors, DROPPED)
    return Renamed(fuse(substitute(kept, names), QKV, "qkv"), dropped)


def _split_biases(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Biases of query and value alone, where the key has none: timm's Beit and Eva."""
    out = dict(tensors)
    for key in [key for key in tensors if re.search(r"\.attn\.qkv\.bias$", key)]:
        q, k, v = out[key].chunk(3) if len(out[key]) % 3 == 0 else (None, None, None)
        if k is not None and q is not None and v is not None and not bool(k.any()):
            prefix = key.removesuffix("qkv.bias")
            del out[key]
            out |= {f"{prefix}q_bias": q, f"{prefix}v_bias": v}
    return out


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return substitute(tensors, ((r"\.gamma_([12])$", r".ls\1.gamma"),))
