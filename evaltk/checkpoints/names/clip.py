"""Names of CLIP's image tower: OpenAI's and OpenCLIP's (the same), and transformers' of CLIP and SigLIP."""

from __future__ import annotations

import torch

from evaltk.checkpoints.names.renamed import Renamed, Rules, Tensors, drop, fuse, substitute

DROPPED: Rules = ((r"proj", "projection to the space of texts"),)
NAMES: Rules = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.ls_([12])\.gamma$", r"blocks.\1.ls\2.gamma"),
    (r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
)
HF_DROPPED: Rules = ((r"embeddings\.position_ids", "index, computed here"),)
HF_NAMES: Rules = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),  # sic
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.", r"blocks.\1.attn."),
    (r"^encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)


def original(tensors: Tensors) -> Renamed:
    """timm's names for what stands under ``visual.``."""
    kept, dropped = drop(tensors, DROPPED)
    return Renamed(_tables(substitute(kept, NAMES)), dropped)


def transformers(tensors: Tensors) -> Renamed:
    """timm's names for what stands under ``vision_model.``."""
    kept, dropped = drop(tensors, HF_DROPPED)
    out = fuse(substitute(kept, HF_NAMES), ("q_proj", "k_proj", "v_proj"), "qkv")
    for kind in ("weight", "bias"):  # torch's MultiheadAttention: the query's rows first
        joint = out.get(f"attn_pool.qkv.{kind}")
        if joint is not None and joint.ndim and len(joint) % 3 == 0:
            del out[f"attn_pool.qkv.{kind}"]
            third = len(joint) // 3
            out |= {f"attn_pool.q.{kind}": joint[:third], f"attn_pool.kv.{kind}": joint[third:]}
    return Renamed(_tables(out), dropped)


def _tables(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Class token and positions with the leading dimension that timm's have."""
    for key, dims in (("cls_token", 1), ("pos_embed", 2)):
        if key in tensors and tensors[key].ndim == dims:
            tensors[key] = tensors[key].reshape(*(1,) * (3 - dims), *tensors[key].shape)
    return tensors
