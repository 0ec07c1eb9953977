"""What tells whose net it is: marks that no two families share. Asked in one place, so that no file has two owners."""

from __future__ import annotations

import torch

from evaltk.checkpoints import state_dicts
from evaltk.checkpoints.nets import Net
from evaltk.checkpoints.rawfile import RawFile

VITS = ("vit", "chunked_vit", "conv_vit")
HF = ("hf", "hf5", "hf5_encoder", "hf_dinov3", "hf_dinov3_5", "hf_clip", "hf_swin")
PLAIN = ("module", "backbone")  # words that say nothing of a training


def owner(raw: RawFile) -> str | None:
    """The family whose marks the file has, of those that share the search for nets; None where it has none's.

    The families of DINO, iBOT, MSN and this project's own files look for marks of their own.
    """
    if state_dicts.own(raw) or not raw.nets or "architecture" in raw.config:
        return None
    net = raw.nets[0]
    if net.layout in HF:
        return "hf"
    if net.layout == "clip":
        return "clip"
    if net.layout == "swin":
        return "swin"
    if net.layout in VITS:
        return _vit(raw, net)
    if net.layout in ("resnet", "sequential_resnet"):
        return _resnet(raw, net)
    return None


def _vit(raw: RawFile, net: Net) -> str | None:
    tensors = net.tensors
    if "storage_tokens" in tensors or "rope_embed.periods" in tensors:
        return "dinov3"
    if any(key.endswith((".attn.q_bias", ".attn.v_bias")) for key in tensors):
        return "beit"
    if _is_dinov2(net):
        return "dinov2"
    if {"encoder", "predictor", "target_encoder"} <= set(raw.tree):
        return "ijepa"
    if net.layout == "conv_vit" or {"base_encoder", "momentum_encoder"} & set(net.words):
        return "mocov3"
    if any(key.startswith("decoder_") for key in tensors):
        return "mae"
    if "dist_token" in tensors or ("pos_embed" in tensors and any(key.endswith(".gamma_1") for key in tensors)):
        return "deit"
    if net.entry != ("model",) or set(net.words[1:]) - set(PLAIN):
        return None
    if "fc_norm.weight" in tensors or "fc_norm.bias" in tensors:
        return "mae"  # fine-tuned
    if any(key in tensors for key in state_dicts.CLASS_HEADS):
        return "deit"
    table = tensors.get("pos_embed")
    if table is not None and _equal(table, sincos(table, rows_first=False)):
        return "mae"
    if table is not None and _equal(table, sincos(table, rows_first=True)):
        return "mocov3"
    return None


def _is_dinov2(net: Net) -> bool:
    tensors = net.tensors
    if any(key.startswith("dino_head.") for key in net.beside):
        return True
    scaled = any(key.endswith(".ls1.gamma") for key in tensors)
    token = tensors.get("mask_token")
    marked = "register_tokens" in tensors or (token is not None and token.ndim == 2)
    return scaled and (marked or net.layout == "chunked_vit" or any(".mlp.w12." in key for key in tensors))


def _resnet(raw: RawFile, net: Net) -> str | None:
    """`resnet` where the training that wrote the file can be told, whose images are known by that."""
    words = set(net.words)
    training = {"encoder_q", "encoder_k", "base_encoder", "momentum_encoder", "_feature_blocks", "trunk"}
    beside = {key.split(".")[0] for key in (*net.beside, *net.tensors)}
    if training & words or {"projection_head", "prototypes"} <= beside or "predictor" in beside & set("predictor"):
        return "resnet"
    barlow = {"projector", "bn"} <= beside and net.entry == ("model",)
    vicreg = net.entry == ("model",) and "projector" in beside
    simsiam = "encoder" in words and "predictor" in beside and "arch" in raw.tree
    mm = {"meta", "state_dict"} <= set(raw.tree) and "data_preprocessor" in beside
    return "resnet" if barlow or vicreg or simsiam or mm else None


def sincos(table: torch.Tensor, *, rows_first: bool) -> torch.Tensor | None:
    """The fixed table of sines and cosines of this shape, [1, prefix + g*g, D], or None where there is none.

    Args: rows_first: MoCo-v3's order (moco-v3/vits.py:53-68), the row's half of the channels before the column's; else
        MAE's, the other way round (mae/util/pos_embed.py:20-56).
    """
    if table.ndim != 3 or table.shape[2] % 4:
        return None
    rows, dim = table.shape[1:]
    side = int(rows**0.5)
    prefix = rows - side * side
    if prefix > 1:
        return None
    omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    y, x = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    halves = [torch.cat([(at.flatten()[:, None] * omega).sin(), (at.flatten()[:, None] * omega).cos()], 1)
              for at in ((y, x) if rows_first else (x, y))]  # fmt: skip
    made = torch.cat(halves, dim=1)
    return torch.cat([torch.zeros(prefix, dim, dtype=torch.float64), made])[None]


def _equal(table: torch.Tensor, made: torch.Tensor | None) -> bool:
    return made is not None and torch.allclose(table.double(), made, rtol=0, atol=1e-4)
