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
    (r"^(encoder\.relative|shared)_position_bias\.", "rel_pos_bias."),
    (r"^layernorm\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
    (r"(\.attention)?\.relative_position_bias\.", ".attn."),
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
REGISTERS = "embeddings.register_tokens"
QKV = ("query", "key", "value")


def _drop(tensors: Tensors) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Without what no feature uses; a configuration of 0 registers leaves a tensor of none."""
    kept, dropped = drop(tensors, DROPPED)
    if REGISTERS in kept and kept[REGISTERS].numel() == 0 and kept[REGISTERS].ndim == 3:
        del kept[REGISTERS]
        dropped[REGISTERS] = "no registers"
    return kept, dropped


def vit(tensors: Tensors) -> Renamed:
    """timm's names for a plain ViT, with or without registers, layer scale and gated MLPs."""
    kept, dropped = _drop(tensors)
    return Renamed(fuse(_gated(substitute(kept, NAMES)), QKV, "qkv"), dropped)


def beit(tensors: Tensors) -> Renamed:
    """timm's names for BEiT and data2vec-vision; the key has no bias."""
    kept, dropped = drop(tensors, DROPPED)
    out = fuse(substitute(kept, NAMES), QKV, "qkv", zeros=("key",))
    return Renamed(_split_biases(out) if any("position_bias_table" in k for k in out) else _plain(out), dropped)


def dinov3(tensors: Tensors) -> Renamed:
    """timm's names for DINOv3; the gate comes first in fc1."""
    kept, dropped = _drop(tensors)
    out = substitute(kept, (*NAMES, (r"\.ls([12])\.gamma$", r".gamma_\1")))
    return Renamed(_split_biases(fuse(_gated(out), QKV, "qkv", zeros=("key",))), dropped)


def _gated(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Both halves of a gated MLP in fc1, the gate first."""
    if not any(".mlp.gate_proj." in key for key in tensors):
        return tensors
    joined = fuse(tensors, ("mlp.gate_proj", "mlp.fc1"), "mlp.gated")
    return substitute(joined, ((r"\.mlp\.gated\.", ".mlp.fc1."),))


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
