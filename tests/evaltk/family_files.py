"""The golden files of `tests/golden/families`: what each needs to be told, and how a folder is made of one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden" / "families"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
TOLERANCE = 1e-5  # of the largest value
HEADS = {"num_heads": 3}
BARE = HEADS | {"norm_eps": 1e-6} | IMAGENET  # a net that anyone may have trained

# File -> (family, what must be said of it). Every file is 24 wide, which is no published width, so heads are asked for.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "barlow_training": ("resnet", {}),
    "beit2_ft": ("beit", IMAGENET),
    "beit2_pt": ("beit", {}),
    "beit_ft": ("beit", IMAGENET),
    "beit_pt": ("beit", {}),
    "beit_pt_abs": ("beit", HEADS),
    "clip_vit_half": ("clip", {"activation": "quickgelu"}),
    "clip_vit_torchscript": ("clip", {"activation": "quickgelu"}),
    "deit": ("deit", HEADS),
    "deit3": ("deit", HEADS),
    "deit_distilled": ("deit", HEADS),
    "dinov2_pretrain": ("dinov2", HEADS),
    "dinov2_reg_pretrain": ("dinov2", HEADS),
    "dinov2_swiglu_pretrain": ("dinov2", HEADS),
    "dinov2_swiglu_reg_pretrain": ("dinov2", HEADS),
    "dinov2_teacher": ("dinov2", HEADS),
    "dinov3_vit": ("dinov3", {}),
    "dinov3_vit_swiglu": ("dinov3", {}),
    "esvit_swin": ("swin", {}),
    "hf_beit_ft": ("hf", {}),
    "hf_beit_pt": ("hf", {}),
    "hf_clip_full": ("hf", {}),
    "hf_clip_vision": ("hf", {}),
    "hf_data2vec_vision": ("hf", IMAGENET),
    "hf_dinov2": ("hf", {}),
    "hf_dinov2_class": ("hf", {}),
    "hf_dinov2_reg": ("hf", {}),
    "hf_dinov2_swiglu": ("hf", {}),
    "hf_dinov3_vit": ("hf", {}),
    "hf_dinov3_vit_gated": ("hf", {}),
    "hf_ijepa": ("hf", {}),
    "hf_siglip_vision": ("hf", {}),
    "hf_swin": ("hf", {}),
    "hf_vit_class": ("hf", IMAGENET),
    "hf_vit_dino": ("hf", IMAGENET),
    "hf_vit_mae": ("hf", {}),
    "hf_vit_msn": ("hf", {}),
    "ijepa": ("ijepa", HEADS),
    "lightly_dino_vit": ("flat", BARE),
    "lightly_mae_vit": ("flat", BARE),
    "lightly_resnet18": ("flat", IMAGENET),
    "lightning_vit": ("timm", BARE),
    "mae_finetuned": ("mae", HEADS),
    "mae_pretrain": ("mae", HEADS),
    "mae_training": ("mae", HEADS),
    "mmpretrain_resnet50": ("flat", IMAGENET),
    "moby_swin": ("swin", {}),
    "mocov2_resnet50": ("resnet", {}),
    "mocov3_conv": ("mocov3", {"num_heads": 4}),
    "mocov3_deit_format": ("mocov3", {"num_heads": 4}),
    "mocov3_vit": ("mocov3", {"num_heads": 4}),
    "openclip_vit": ("clip", HEADS | {"activation": "gelu"}),
    "openclip_vit_quickgelu": ("clip", HEADS | {"activation": "quickgelu"}),
    "simmim_swin": ("swin", {}),
    "simsiam_resnet50": ("resnet", {}),
    "solo_resnet18_cifar": ("flat", IMAGENET | {"stem": "cifar-pad2"}),
    "solo_vit": ("flat", BARE),
    "swav_resnet50": ("resnet", {}),
    "timm_hub": ("timm", {}),
    "timm_train": ("timm", BARE),
    "vicreg_resnet50": ("flat", IMAGENET),
    "vissl_resnet50": ("resnet", {}),
}


def file_of(name: str) -> Path:
    """The weight file."""
    return next(GOLDEN.glob(f"{name}_checkpoint.*"))


def path_of(name: str, folder: Path) -> Path:
    """The file, or a folder made of it and its configuration, as transformers and timm save one."""
    config, file = GOLDEN / f"{name}_config.json", file_of(name)
    if not config.exists():
        return file
    folder.mkdir(exist_ok=True)
    shutil.copy(config, folder / "config.json")
    shutil.copy(file, folder / ("model.safetensors" if file.suffix == ".safetensors" else "pytorch_model.bin"))
    return folder


def close(got: torch.Tensor, wanted: np.ndarray) -> bool:
    """Whether an array is the original's, relative to its largest value."""
    expected = torch.from_numpy(wanted)
    return got.shape == expected.shape and float((got - expected).abs().max()) <= TOLERANCE * float(
        expected.abs().max()
    )
