"""Files of timm's train.py, which name their net and how its images were prepared; folders whose config.json does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import evaltk
from evaltk.errors import CheckpointError

SMALL = {"depth": 2, "img_size": 32, "patch_size": 8}
ARGS: dict[str, Any] = {"mean": None, "std": None, "crop_pct": None, "interpolation": "", "img_size": None, "gp": None}


def trained(path: Path, name: str, kwargs: dict[str, Any], *, said: str | None = None, **args: Any) -> Any:
    """timm's net of that name, and a file of train.py with it. said: the name in the file."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=7, **kwargs).eval()
    given = argparse.Namespace(**{**ARGS, "model": said or name, "model_kwargs": kwargs, **args})
    tree = {
        "epoch": 5,
        "arch": said or name,
        "state_dict": net.state_dict(),
        "optimizer": {},
        "version": 2,
        "args": given,
    }
    torch.save(tree | {"state_dict_ema": net.state_dict(), "metric": 70.1}, path)
    return net


@pytest.mark.parametrize("branch", ["state_dict", "state_dict_ema"])
def test_the_file_tells_all(tmp_path: Path, branch: str) -> None:
    net = trained(tmp_path / "c.pth", "vit_tiny_patch16_224", SMALL, img_size=32, crop_pct=0.5)
    found = evaltk.load_checkpoint(tmp_path / "c.pth", branch=branch)
    assert (found.arch.num_heads, found.arch.norm_eps, found.arch.depth) == (3, 1e-6, 2)
    assert found.mean == found.std == (0.5, 0.5, 0.5)  # AugReg's, the net's default
    assert (found.view.crop, found.view.margin) == (32, 2.0)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        wanted = net.forward_features(images)[:, 0]
    torch.testing.assert_close(evaltk.build_backbone(found).tokens(images)[-1].cls, wanted, rtol=1e-5, atol=1e-5)


def test_arguments_come_before_the_nets_defaults(tmp_path: Path) -> None:
    trained(tmp_path / "c.pth", "vit_tiny_patch16_224", SMALL | {"num_heads": 6}, mean=[0.1, 0.2, 0.3], std=[0.2] * 3)
    found = evaltk.load_checkpoint(tmp_path / "c.pth")
    assert (found.arch.num_heads, found.mean, found.std) == (6, (0.1, 0.2, 0.3), (0.2, 0.2, 0.2))
    trained(tmp_path / "r.pth", "resnet18", {})
    assert evaltk.load_checkpoint(tmp_path / "r.pth").mean == (0.485, 0.456, 0.406)


def test_the_average_of_patches_is_its_feature(tmp_path: Path) -> None:
    net = trained(tmp_path / "c.pth", "vit_tiny_patch16_224", SMALL, gp="avg")
    assert net.global_pool == "token"  # as made here: the file says otherwise, and has no fc_norm
    with pytest.raises(CheckpointError, match="--norm-eps"):
        evaltk.load_checkpoint(tmp_path / "c.pth")
    trained(tmp_path / "c.pth", "vit_tiny_patch16_224", SMALL | {"global_pool": "avg"})
    assert evaltk.load_checkpoint(tmp_path / "c.pth").arch.pool == "avg"


def test_only_heads_are_taken_where_tensors_are_others(tmp_path: Path) -> None:
    trained(tmp_path / "c.pth", "vit_tiny_patch16_224", SMALL, model_kwargs={})
    with pytest.raises(CheckpointError) as caught:
        evaltk.load_checkpoint(tmp_path / "c.pth")
    assert "--norm-eps" in str(caught.value) and "--num-heads" not in str(caught.value)
    found = evaltk.load_checkpoint(tmp_path / "c.pth", norm_eps=1e-6)
    assert found.arch.num_heads == 3 and any("only its 3 heads" in note for note in found.notes)


def test_a_name_that_is_not_the_nets_is_set_aside(tmp_path: Path) -> None:
    trained(tmp_path / "c.pth", "vit_tiny_patch16_224", SMALL, said="vit_small_patch16_224", model_kwargs={})
    with pytest.raises(CheckpointError, match="--num-heads N --norm-eps EPS"):
        evaltk.load_checkpoint(tmp_path / "c.pth")
    trained(tmp_path / "c.pth", "vit_tiny_patch16_224", SMALL, said="my_vit")
    with pytest.raises(CheckpointError, match="--num-heads N --norm-eps EPS --mean"):
        evaltk.load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("fc_norm", [False, True])  # DeiT's layout, and that of MAE's fine-tuned nets
def test_a_training_of_deit_or_mae_that_names_another_net(tmp_path: Path, fc_norm: bool) -> None:
    def saved(width: int, heads: int, said: str | None) -> Path:
        pooled = {"global_pool": "avg", "fc_norm": True} if fc_norm else {}
        kwargs = SMALL | {"embed_dim": width, "num_heads": heads, "num_classes": 7} | pooled
        tree: dict[str, Any] = {"model": timm.create_model("vit_tiny_patch16_224", **kwargs).state_dict(), "epoch": 5}
        torch.save(tree | ({"args": argparse.Namespace(model=said)} if said else {}), tmp_path / "c.pth")
        return tmp_path / "c.pth"

    own = "vit_base_patch16" if fc_norm else "deit_base_patch16_224"
    for said in (own, None, "vit_base_patch16_clip_224"):
        assert evaltk.load_checkpoint(saved(768, 12, said), norm_eps=1e-6).arch.num_heads == 12
    with pytest.raises(
        CheckpointError, match="--num-heads N --norm-eps EPS, as"
    ):  # 24 heads of 32, as the name may say
        evaltk.load_checkpoint(saved(768, 24, "my_vit_b32"))
    found = evaltk.load_checkpoint(saved(768, 24, "my_vit_b32"), num_heads=24, norm_eps=1e-5)
    assert (found.arch.num_heads, found.arch.norm_eps) == (24, 1e-5)


def test_a_folder_with_weights_of_another_net(tmp_path: Path) -> None:
    """vit_small's 384 are divided by vit_tiny's three heads too: it would load, with wrong features."""
    config = {"architecture": "vit_tiny_patch16_224", "model_args": SMALL, "pretrained_cfg": {"mean": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"std": [0.5] * 3}))
    for name, kwargs in (("vit_small_patch16_224", SMALL), ("vit_tiny_patch16_224", SMALL | {"depth": 1})):
        net = timm.create_model(name, num_classes=0, **kwargs)
        save_file(net.state_dict(), tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="tensors of vit_tiny_patch16_224, as config"):
            evaltk.load_checkpoint(tmp_path)
