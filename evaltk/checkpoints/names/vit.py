"""Names of ViTs that derive from timm's: DINO, DINOv2, DINOv3, MAE, MoCo-v3, DeiT, BEiT, I-JEPA, MMPretrain."""

from __future__ import annotations

import re

import torch

from evaltk.checkpoints.names.renamed import Renamed, Rules, Tensors, drop, substitute
from evaltk.errors import CheckpointError

CLASS_HEAD: Rules = ((r"(head|head_dist|fc|head\.fc)\.(weight|bias)", "class head"),)
PROJECTION: Rules = (
    (r"(head|fc)\.\d+\.\w+", "projection head"),
    (r"head\.(mlp|last_layer|last_layer2|layers)\b.*", "projection head"),
)
PRETRAINING: Rules = (
    (r"mask_token|masked_embed", "mask token"),
    (r"decoder_\w+(\..*)?", "decoder"),
    (r"lm_head\.(weight|bias)", "head for masked patches"),
    (r"cls_pt_layers\..*", "blocks for pre-training alone"),
    (r"(.*\.)?relative_position_index", "index, computed here"),
    (r"blocks\.\d+\.attn\.qkv\.bias_mask", "mask of biases, applied"),
    (r"local_cls_norm\.(weight|bias)", "norm of local crops"),
)
RULES: Rules = (*CLASS_HEAD, *PROJECTION, *PRETRAINING)


def rename(tensors: Tensors, *, rules: Rules = RULES) -> Renamed:
    """timm's names for a ViT of any of these code bases; what `rules` name is dropped."""
    kept, dropped = drop(unchunked(tensors), rules)
    kept = substitute(kept, ((r"^register_tokens$|^storage_tokens$", "reg_token"),))
    if any(re.search(r"\.mlp\.w\d+\.", key) for key in kept):
        kept = _gated(kept)
    return Renamed(kept, dropped)


def without_class_head(tensors: Tensors) -> Renamed:
    """The names as they are."""
    return Renamed(*drop(tensors, CLASS_HEAD))


def unchunked(tensors: Tensors) -> dict[str, torch.Tensor]:
    """DINOv2's own training files number blocks twice: blocks.CHUNK.INDEX, where INDEX counts through all chunks."""
    return substitute(tensors, ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),))


def _gated(tensors: Tensors) -> dict[str, torch.Tensor]:
    """SwiGLU with both halves in fc1. DINOv2 has them in w12 already, DINOv3 apart, the gate in w1."""
    out = substitute(tensors, ((r"\.mlp\.w12\.", ".mlp.fc1."),))
    if not any(".mlp.w1." in key for key in out):
        return substitute(out, ((r"\.mlp\.w3\.", ".mlp.fc2."),))
    for key in [key for key in out if ".mlp.w1." in key]:
        other = key.replace(".mlp.w1.", ".mlp.w2.")
        if other in out and out[other].shape == out[key].shape:
            out[key.replace(".mlp.w1.", ".mlp.fc1.")] = torch.cat([out.pop(key), out.pop(other)])
    return substitute(out, ((r"\.mlp\.w3\.", ".mlp.fc2."),))


def dinov3(tensors: Tensors) -> Renamed:
    """timm's names for DINOv3: layer scale is gamma_1 and gamma_2, biases of query and value stand alone.

    Raises: CheckpointError: a bias of the key that the file does not mask, which no DINOv3 has.
    """
    masks = {key: t for key, t in tensors.items() if key.endswith(".qkv.bias_mask")}
    renamed = rename(tensors)
    out = substitute(
        renamed.weights,
        ((r"\.ls([12])\.gamma$", r".gamma_\1"), (r"^rope_embed\.periods$", "rope.periods")),
    )
    for key in [key for key in out if key.endswith(".attn.qkv.bias")]:
        bias = out[key]
        if bias.ndim != 1 or len(bias) % 3:
            continue  # reported as unexpected
        q, k, v = bias.chunk(3)
        mask = masks.get(f"{key}_mask")
        if mask is None and bool((k != 0).any()):
            wanted = "the key's bias masked, as in DINOv3"
            raise CheckpointError(wanted=wanted, got=f"no {key}_mask", where=key, do="name another file")
        del out[key]
        prefix = key.removesuffix("qkv.bias")
        out |= {f"{prefix}q_bias": q, f"{prefix}v_bias": v}
    return Renamed(out, renamed.dropped)


def beit(tensors: Tensors) -> Renamed:
    """timm's names for BEiT. Without tables of offsets it is a plain ViT, whose bias of the key is zero."""
    renamed = rename(tensors)
    out = dict(renamed.weights)
    scaled = any(key.endswith(".gamma_1") for key in out) and "pos_embed" not in out
    if scaled or any("relative_position_bias_table" in key for key in out):
        return renamed
    out = substitute(out, ((r"\.gamma_([12])$", r".ls\1.gamma"),))
    for key in [key for key in out if key.endswith(".attn.q_bias")]:
        value = key.replace("q_bias", "v_bias")
        if value in out and out[value].shape == out[key].shape:
            q, v = out.pop(key), out.pop(value)
            out[key.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.zeros_like(q), v])
    return Renamed(out, renamed.dropped)


def deit(tensors: Tensors) -> Renamed:
    """timm's names for DeiT and DeiT-III, whose layer scale is gamma_1 and gamma_2."""
    renamed = rename(tensors)
    return Renamed(substitute(renamed.weights, ((r"\.gamma_([12])$", r".ls\1.gamma"),)), renamed.dropped)


def torchvision(tensors: Tensors) -> Renamed:
    """timm's names for torchvision's VisionTransformer (torchvision/models/vision_transformer.py)."""
    block = r"^encoder\.layers\.encoder_layer_(\d+)\."
    names: Rules = (
        (r"^class_token$", "cls_token"),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.ln\.", "norm."),
        (block + r"ln_([12])\.", r"blocks.\1.norm\2."),
        (block + r"self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
        (block + r"self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
        (block + r"mlp\.(0|linear_1)\.", r"blocks.\1.mlp.fc1."),
        (block + r"mlp\.(3|linear_2)\.", r"blocks.\1.mlp.fc2."),
    )
    kept, dropped = drop(tensors, ((r"heads\..*", "class head"),))
    return Renamed(substitute(kept, names), dropped)


def mmpretrain(tensors: Tensors) -> Renamed:
    """timm's names for MMPretrain's VisionTransformer (mmpretrain/models/backbones/vision_transformer.py).

    Its final norm is ln1; ln2 is a norm of the mean of patches, which its pre-training nets do not have.
    """
    names: Rules = (
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"^pre_norm\.", "norm_pre."),
        (r"^layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
        (r"^layers\.(\d+)\.attn\.gamma1\.weight$", r"blocks.\1.ls1.gamma"),
        (r"^layers\.(\d+)\.ffn\.gamma2\.weight$", r"blocks.\1.ls2.gamma"),
        (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
        (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
        (r"^layers\.(\d+)\.", r"blocks.\1."),
        (r"^ln1\.", "norm."),
        (r"^ln2\.", "fc_norm."),
    )
    kept, dropped = drop(tensors, RULES)
    return Renamed(substitute(kept, names), dropped)
