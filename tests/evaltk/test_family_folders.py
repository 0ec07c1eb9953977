"""Folders of timm and transformers, names of transformers 5, SwAV's head, and what the catalogue knows of a file."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from family_files import FILES, close, file_of, path_of
from safetensors.torch import save_file

import evaltk
from evaltk.checkpoints import catalog, locate, rawfile
from evaltk.errors import CheckpointError

SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 3}
TIMM: dict[str, dict[str, Any]] = {
    "vit_small_patch16_224": SMALL | {"img_size": 16, "patch_size": 4, "global_pool": "avg", "fc_norm": False},
    "vit_base_patch16_siglip_224": SMALL | {"img_size": 16, "patch_size": 4},
    "vit_base_patch32_clip_quickgelu_224": SMALL | {"img_size": 16, "patch_size": 4},
    "vit_medium_patch16_gap_240": SMALL | {"img_size": 16, "patch_size": 4},
    "vit_small_patch14_reg4_dinov2": SMALL | {"img_size": 56},
    "vit_small_patch16_dinov3": SMALL | {"img_size": 64},
    "beit_base_patch16_224": SMALL | {"img_size": 16, "patch_size": 4},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)},
}


@pytest.mark.parametrize("name", TIMM)
def test_folders_of_timm_give_timms_features(name: str, tmp_path: Path) -> None:
    """Heads, epsilon, activation and pooling are those of the architecture that config.json names."""
    if not timm.is_model(name):
        pytest.skip("not in this version of timm")
    model = noisy(timm.create_model(name, **TIMM[name])).eval()
    save_file({k: t.contiguous() for k, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    stated = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bilinear"}
    config = {"architecture": name, "model_args": TIMM[name], "pretrained_cfg": stated}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = evaltk.load_checkpoint(tmp_path)
    assert (found.family, found.mean, found.position, found.view.interpolation) == (
        "timm", (0.5, 0.5, 0.5), "size_aa", "bilinear",
    )  # fmt: skip
    side = TIMM[name]["img_size"]
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(x), pre_logits=True)
    assert close(evaltk.build_backbone(found).tokens(x)[0].cls, wanted.numpy())


def noisy(model: torch.nn.Module) -> torch.nn.Module:
    """The net with no parameter left at its first 0 or 1."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.15 + (0.5 if tensor.ndim == 1 else 0.0))
    return model


def test_a_folder_of_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = path_of("timm_hub", tmp_path / "folder")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("vit_small_patch16_224", "vit_nothing"))
    with pytest.raises(CheckpointError, match="an architecture of timm"):
        evaltk.load_checkpoint(folder)


NAMES_OF_5 = {
    "encoder.layer.": "layers.",
    "attention.attention.query.": "attention.q_proj.",
    "attention.attention.key.": "attention.k_proj.",
    "attention.attention.value.": "attention.v_proj.",
    "attention.output.dense.": "attention.o_proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    "encoder.relative_position_bias.": "shared_position_bias.",
}


@pytest.mark.parametrize("name", ["hf_vit_dino", "hf_vit_msn", "hf_beit_pt", "hf_dinov2", "hf_dinov3_vit"])
def test_names_of_transformers_5(name: str, tmp_path: Path) -> None:
    """`state_dict()` of version 5 has other names than `save_pretrained` writes; the nets are the same."""
    folder = path_of(name, tmp_path / "folder")
    wanted = evaltk.load_checkpoint(folder, **FILES[name][1]).digest
    tree = rawfile.read(locate.locate(folder)).tree
    renamed = {}
    for key, tensor in tree.items():
        assert isinstance(tensor, torch.Tensor)
        new = f"model.{key}" if key.startswith("layer.") else key
        for old, other in NAMES_OF_5.items():
            if name != "hf_dinov2" or old != "encoder.layer.":  # which stays there
                new = new.replace(old, other)
        renamed[new] = tensor.clone()
    assert set(renamed) != set(tree)
    for file in ("model.safetensors", "pytorch_model.bin"):
        (folder / file).unlink(missing_ok=True)
    torch.save(renamed, folder / "pytorch_model.bin")
    assert evaltk.load_checkpoint(folder, **FILES[name][1]).digest == wanted


def test_swavs_prototypes_are_a_head(tmp_path: Path) -> None:
    """Linear, BatchNorm, ReLU, linear; cosines with unit prototypes (swav/src/resnet50.py)."""
    checkpoint = evaltk.load_checkpoint(file_of("swav_resnet50"))
    tree = {k.removeprefix("module."): t for k, t in rawfile.read(locate.locate(file_of("swav_resnet50"))).tree.items()}
    head = evaltk.build_head(checkpoint)
    x = torch.randn(3, 2048, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = {k.removeprefix("projection_head."): t.double() for k, t in tree.items() if k.startswith("projection_head.")}
    hidden = x @ p["0.weight"].T + p["0.bias"]
    scale = p["1.weight"] / (p["1.running_var"] + 1e-5).sqrt()
    hidden = ((hidden - p["1.running_mean"]) * scale + p["1.bias"]).clamp(min=0)
    y = hidden @ p["3.weight"].T + p["3.bias"]
    y = y / y.norm(dim=1, keepdim=True)
    w = tree["prototypes.weight"].double()
    assert close(head.embed(x.float()), y.float().numpy())
    assert close(head.logits(head.embed(x.float())), (y @ (w / w.norm(dim=1, keepdim=True)).T).float().numpy())


def test_what_the_catalogue_knows_of_a_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads, activation and pixels that no tensor tells, of a file known by its bytes."""
    known = dataclasses.replace(
        catalog.find("clip_vitb32"), name="mine", family="clip", num_heads=3, mean=(0.1, 0.2, 0.3)
    )
    monkeypatch.setattr(catalog, "pinned", lambda sha: known)
    found = evaltk.load_checkpoint(file_of("openclip_vit"))
    assert known.activation == "quickgelu"
    assert (found.arch.num_heads, found.arch.activation, found.mean) == (3, "quickgelu", (0.1, 0.2, 0.3))


def test_folders_of_openclip_state_the_activation(tmp_path: Path) -> None:
    """open_clip_config.json tells heads, activation and pixels; a contradiction with the tensors is an error."""
    folder = tmp_path / "clip"
    folder.mkdir()
    shutil.copy(file_of("openclip_vit"), folder / "open_clip_pytorch_model.bin")
    tower = {"width": 24, "layers": 2, "patch_size": 4, "image_size": 16, "head_width": 8}
    for quick, activation in ((False, "gelu"), (True, "quickgelu")):
        stated = {"model_cfg": {"embed_dim": 16, "quick_gelu": quick, "vision_cfg": tower}}
        stated["preprocess_cfg"] = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        (folder / "open_clip_config.json").write_text(json.dumps(stated))
        found = evaltk.load_checkpoint(folder)
        assert (found.arch.num_heads, found.arch.activation, found.std) == (3, activation, (0.25, 0.25, 0.25))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": tower | {"layers": 5}}}))
    with pytest.raises(CheckpointError, match="depth 5"):
        evaltk.load_checkpoint(folder)


def test_a_folder_whose_one_weight_file_has_another_name(tmp_path: Path) -> None:
    folder = path_of("hf_dinov2", tmp_path / "folder")
    wanted = evaltk.load_checkpoint(folder).digest
    (folder / "model.safetensors").rename(folder / "dinov2_small.safetensors")
    assert evaltk.load_checkpoint(folder).digest == wanted


@pytest.mark.parametrize(
    ("said", "filter_", "told"),
    [
        ({"resample": 2}, "bilinear", ""),
        ({"resample": 3}, "bicubic", ""),
        ({"resample": 1}, "bicubic", "asks for Pillow's filter 1: images are resized bicubic"),
        ({"resample": [2]}, "bicubic", r"asks for Pillow's filter \[2\]"),
        ({}, "bicubic", "says no filter"),
    ],
)
def test_a_filter_that_is_not_followed_is_told(
    said: dict[str, object], filter_: str, told: str, tmp_path: Path
) -> None:
    folder = path_of("hf_dinov2", tmp_path / "folder")
    looks = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}, **said}
    (folder / "preprocessor_config.json").write_text(json.dumps(looks))
    found = evaltk.load_checkpoint(folder)
    assert (found.view.crop, found.view.interpolation) == (28, filter_)
    assert bool(re.search(told, " ".join(found.notes))) and ("resized" in " ".join(found.notes)) == bool(told)


def test_what_a_processor_makes_of_pixels(tmp_path: Path) -> None:
    """Statistics that are not applied, and pixels that are not from 0 to 1 (transformers' image_processing_utils)."""
    folder = path_of("hf_dinov2", tmp_path / "folder")
    looks = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}

    def mean(**more: object) -> tuple[float, ...]:
        (folder / "preprocessor_config.json").write_text(json.dumps({**looks, **more}))
        found = evaltk.load_checkpoint(folder)
        assert found.std == ((1, 1, 1) if not any(found.mean) else (0.2, 0.2, 0.2))
        return found.mean

    assert mean() == mean(rescale_factor=0.00392156862745098, do_rescale=True) == (0.5, 0.4, 0.3)
    assert mean(do_normalize=False) == (0, 0, 0)
    for odd in ({"rescale_factor": 1 / 127.5}, {"do_rescale": False}, {"do_flip_channel_order": True}):
        with pytest.raises(CheckpointError, match=r"rescale_factor: 1/255|do_flip_channel_order: false"):
            mean(**odd)
