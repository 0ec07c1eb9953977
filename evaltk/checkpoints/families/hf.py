"""Image models of transformers: ViT (DINO's too), MSN, MAE, Dinov2, DINOv3, I-JEPA, BEiT, data2vec, CLIP, SigLIP, Swin.

config.json tells heads, epsilon and activation, preprocessor_config.json the pixels; a file without them is asked for
what its tensors do not tell. Positions of another size are resized as transformers does it: antialiased with registers,
bilinearly in BEiT's tables. MAE's encoder is taken with every patch, in order.

Source: transformers 4.57, src/transformers/models/*/modeling_*.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from evaltk.checkpoints import conversion, hf_config, marks, nets
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.names import clip, hf
from evaltk.checkpoints.names.renamed import Rename, Renamed
from evaltk.checkpoints.nets import Net
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.types import PositionRule, Recipe

CLIP_PIXELS: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of transformers.

    Attributes:
        rename: to timm's names. position: its rule for other sizes. need, without: see `conversion.converted`.
        pixels: mean and std of all its published weights, {} where they differ.
        linear: the original's own feature for linear probes.
    """

    rename: Rename
    position: PositionRule | None
    need: tuple[str, ...] = ("cls_token",)
    without: tuple[str, ...] = ()
    pixels: dict[str, Any]
    linear: Recipe = field(default_factory=Recipe)


PLAIN = Model(rename=hf.vit, position="size", pixels={})  # google/vit-* take 0.5, facebook/dino-* ImageNet's statistics
MODELS: dict[str, Model] = {
    "vit": PLAIN,
    "vit_msn": Model(rename=hf.vit, position="size", pixels=conversion.IMAGENET),
    "vit_mae": Model(rename=hf.vit, position="size", pixels=conversion.IMAGENET),
    "dinov2": Model(rename=hf.vit, position="size", pixels=conversion.IMAGENET, linear=Recipe(tokens="cls+mean")),
    "dinov2_with_registers": Model(
        rename=hf.vit,
        position="size_aa",
        need=("cls_token", "reg_token"),
        pixels=conversion.IMAGENET,
        linear=Recipe(tokens="cls+mean"),
    ),
    "dinov3_vit": Model(rename=hf.dinov3, position=None, need=("cls_token", "reg_token"), pixels=conversion.IMAGENET),
    "ijepa": Model(rename=hf.vit, position="size", need=(), without=("cls_token",), pixels=conversion.IMAGENET),
    "beit": Model(
        rename=hf.beit, position="bilinear", pixels=conversion.HALF, linear=Recipe(tokens="cls+mean", norm=False)
    ),
    "data2vec-vision": Model(
        rename=hf.beit, position="bilinear", pixels={}, linear=Recipe(tokens="cls+mean", norm=False)
    ),
    "clip_vision_model": Model(
        rename=clip.transformers,
        position="size",
        need=("cls_token", "norm_pre.weight", "norm_pre.bias"),
        without=("patch_embed.proj.bias",),
        pixels=CLIP_PIXELS,
    ),
    "siglip_vision_model": Model(
        rename=clip.transformers,
        position="size",
        need=(),
        without=("cls_token", "norm_pre.weight", "norm_pre.bias"),
        pixels=conversion.HALF,
    ),
    "swin": Model(rename=lambda t: swin_names(hf.swin(t)), position=None, need=(), pixels=conversion.IMAGENET),
}
TABLED = ("beit", "data2vec-vision")  # with tables of relative positions, or else with positions as a plain ViT has
SAME = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


def swin_names(renamed: Renamed) -> Renamed:
    """From the names of Swin's own code to timm's."""
    from evaltk.checkpoints.names import swin

    again = swin.rename(renamed.weights)
    return Renamed(again.weights, dict(renamed.dropped) | dict(again.dropped))


def claims(raw: RawFile) -> bool:
    """A net in names that transformers gives."""
    return marks.owner(raw) == "hf"


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The net, with what the folder's configuration states."""
    net = _whole(nets.choose(raw.nets, options, raw.path))
    config = hf_config.read(raw)
    kind = config.model_type or guess(net)
    kind = SAME.get(kind, kind)
    if kind not in MODELS:
        hf_config.refuse(raw, kind, tuple(MODELS))
    model = MODELS[kind]
    facts: dict[str, Any] = dict(model.pixels)
    if kind in ("clip_vision_model",):
        facts["activation"] = None
    if kind == "siglip_vision_model":
        facts |= {"activation": "gelu_tanh", "norm_eps": 1e-6}
    if kind == "dinov3_vit":
        facts |= {"norm_eps": 1e-5, "kind": "eva"}
    facts |= config.facts()
    return conversion.converted(
        raw,
        net,
        model.rename,
        need=_needed(model, kind, net),
        without=model.without,
        position="size" if "embeddings.position_embeddings" in net.tensors and kind in TABLED else model.position,
        linear=model.linear,
        notes=config.notes,
        stated=config.stated,
        **facts,
    )


def _needed(model: Model, kind: str, net: Net) -> tuple[str, ...]:
    """What the model needs; registers may be configured to be none, and tables to be positions."""
    if kind in TABLED and not conversion.has_positions(net):
        return (*model.need, conversion.TABLE)
    registers = net.tensors.get(hf.REGISTERS)
    none = registers is not None and registers.numel() == 0
    need = tuple(key for key in model.need if not (none and key == "reg_token"))
    return (*need, "attn_pool.latent") if any(key.startswith("head.") for key in net.tensors) else need


def guess(net: Net) -> str:
    """The model whose marks the names have, where no configuration says it; a plain ViT where nothing tells."""
    by_layout = {"hf_swin": "swin", "hf_dinov3": "dinov3_vit", "hf_dinov3_5": "dinov3_vit"}
    if net.layout in by_layout:
        return by_layout[net.layout]
    keys = " ".join(net.tensors)
    if net.layout == "hf_clip":
        return "clip_vision_model" if "class_embedding" in keys or "pre_layrnorm" in keys else "siglip_vision_model"
    if "relative_position_bias" in keys or ".lambda_1" in keys or _no_key_bias(net):
        return "beit"
    if "embeddings.register_tokens" in net.tensors:
        return "dinov2_with_registers"
    if ".layer_scale1." in keys:
        return "dinov2"
    return "vit" if "embeddings.cls_token" in net.tensors else "ijepa"


def _no_key_bias(net: Net) -> bool:
    query = [key for key in net.tensors if key.endswith((".query.bias", ".q_proj.bias"))]
    return bool(query) and not any(key.endswith((".key.bias", ".k_proj.bias")) for key in net.tensors)


def _whole(net: Net) -> Net:
    """The net with the norm that BeitForMaskedImageModeling keeps outside of it."""
    outer = {key: t for key, t in net.beside.items() if key.startswith("layernorm.")}
    beside = {key: t for key, t in net.beside.items() if key not in outer}
    return replace(net, tensors={**net.tensors, **outer}, beside=beside) if net.prefix == "beit." else net


FAMILY = Family(name="hf", claims=claims, convert=convert)
