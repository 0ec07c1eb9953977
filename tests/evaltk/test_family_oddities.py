"""What training scripts leave beside a net or leave out of it, and names of nets that are rarer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from family_files import FILES, IMAGENET, close, file_of

import evaltk
from evaltk.errors import CheckpointError, EvaltkError
from evaltk.types import Recipe

BARE = FILES["solo_vit"][1]


def saved(tree: Mapping[str, Any], tmp_path: Path) -> Path:
    torch.save(dict(tree), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def prefixed(prefix: str, tree: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in tree.items()}


def vit() -> dict[str, torch.Tensor]:
    return dict(torch.load(file_of("mae_pretrain"), weights_only=True)["model"])


def resnet() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {k: t for k, t in torchvision.models.resnet18().state_dict().items() if not k.startswith("fc.")}


def test_counts_of_batches_may_be_absent(tmp_path: Path) -> None:
    """torch before 0.4.1 had none; they take no part in evaluation."""
    old = {k: t for k, t in resnet().items() if not k.endswith("num_batches_tracked")}
    found = evaltk.load_checkpoint(saved(old, tmp_path), **IMAGENET)
    assert found.digest == evaltk.load_checkpoint(saved(resnet(), tmp_path), **IMAGENET).digest
    lacking = {k: t for k, t in old.items() if k != "layer2.0.bn1.running_var"}
    with pytest.raises(CheckpointError, match=r"layer2\.0\.bn1\.running_var"):
        evaltk.load_checkpoint(saved(lacking, tmp_path), **IMAGENET)


@pytest.mark.parametrize(
    "beside",
    [
        {"best_acc1": torch.tensor(69.7)},
        {"torch_rng_state": torch.get_rng_state()},
        {"rng_state": [torch.get_rng_state()], "cuda_rng_state": (torch.get_rng_state(),)},
        {"numpy_rng_state": np.random.RandomState(0).get_state()},
    ],
)
def test_numbers_of_a_training_are_bookkeeping(beside: dict[str, Any], tmp_path: Path) -> None:
    wanted = evaltk.load_checkpoint(saved(vit(), tmp_path), **BARE).digest
    found = evaltk.load_checkpoint(saved({"state_dict": vit(), **beside}, tmp_path), **BARE)
    assert found.digest == wanted
    assert set(beside) <= set(found.dropped)
    dino = {"teacher": prefixed("backbone.", vit()), "student": prefixed("module.backbone.", vit())} | beside
    assert evaltk.load_checkpoint(saved(dino, tmp_path), num_heads=3).digest == wanted


def test_the_count_of_an_averaged_model(tmp_path: Path) -> None:
    found = evaltk.load_checkpoint(
        saved({"n_averaged": torch.tensor(3), **prefixed("module.", vit())}, tmp_path), **BARE
    )
    assert found.dropped["n_averaged"] == "bookkeeping"


def test_dinov2s_teacher_without_layer_scale(tmp_path: Path) -> None:
    """Its two heads tell whose it is."""
    draw = torch.Generator().manual_seed(0)
    head = {
        "mlp.0.weight": (16, 24),
        "mlp.0.bias": (16,),
        "last_layer.weight_g": (9, 1),
        "last_layer.weight_v": (9, 16),
    }
    tree = prefixed("backbone.", vit())
    for name in ("dino_head.", "ibot_head."):
        tree |= {name + key: torch.rand(*shape, generator=draw) for key, shape in head.items()}
    found = evaltk.load_checkpoint(saved({"teacher": tree}, tmp_path), num_heads=3)
    assert (found.family, found.branch) == ("dinov2", "teacher")
    assert evaltk.build_head(found).prototypes.shape == (9, 16)


def test_the_head_of_dinos_first_release(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    head = {
        "head.projection_head.0.weight": torch.rand(16, 24, generator=draw),
        "head.projection_head.0.bias": torch.rand(16, generator=draw),
        "head.prototypes.weight_g": torch.ones(9, 1),
        "head.prototypes.weight_v": torch.rand(9, 16, generator=draw),
    }
    found = evaltk.load_checkpoint(saved({"teacher": {**vit(), **head}}, tmp_path), num_heads=3)
    assert found.family == "dino"
    assert evaltk.build_head(found).prototypes.shape == (9, 16)


def test_torchvisions_vit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 48}
    net = torchvision.models.VisionTransformer(**sizes).eval()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn_like(tensor) * 0.2 + (0.5 if tensor.ndim == 1 else 0.0))
        x = torch.randn(2, 3, 16, 16)
        tokens = torch.cat([net.class_token.expand(2, -1, -1), net._process_input(x)], dim=1)
        wanted = net.encoder(tokens)
    found = evaltk.load_checkpoint(saved(net.state_dict(), tmp_path), **BARE)
    got = evaltk.build_backbone(found).tokens(x)[0]
    assert close(got.cls, wanted[:, 0].numpy())
    assert close(got.patches, wanted[:, 1:].numpy())


def test_kinds_of_nets_that_are_not_known(tmp_path: Path) -> None:
    for net, words in (
        (timm.create_model("convnext_atto"), "a ConvNeXt"),
        (torchvision.models.convnext_tiny(), "a ConvNeXt"),
        (timm.create_model("mobilenetv3_small_050"), "an EfficientNet or MobileNet"),
        (torchvision.models.mobilenet_v2(), "MobileNet"),
        (timm.create_model("mobilenetv3_small_050"), "MobileNet"),
        (torchvision.models.densenet121(), "a DenseNet"),
    ):
        small = {k: torch.zeros(()).expand(t.shape) for k, t in net.state_dict().items()}
        with pytest.raises(EvaltkError) as caught:
            evaltk.load_checkpoint(saved(small, tmp_path))
        assert words in str(caught.value)
        assert "evaltk.evaluate" in str(caught.value)


def test_a_swin_in_timms_names(tmp_path: Path) -> None:
    """A bare state dict of timm's own Swin: its feature is timm's pooled one; pixels are asked for."""
    torch.manual_seed(0)
    net = timm.models.swin_transformer.SwinTransformer(
        img_size=56, patch_size=4, embed_dim=24, depths=(2, 2), num_heads=(3, 6), window_size=7, num_classes=5
    ).eval()
    for block in (block for stage in net.layers for block in stage.blocks):
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
    torch.save(net.state_dict(), tmp_path / "swin.pth")
    with pytest.raises(CheckpointError, match="pixel mean"):
        evaltk.load_checkpoint(tmp_path / "swin.pth")
    half = (0.5, 0.5, 0.5)
    found = evaltk.load_checkpoint(tmp_path / "swin.pth", mean=half, std=half)
    assert (found.arch.kind, found.arch.img_size, found.arch.pool) == ("swin", 56, "avg")
    images = torch.randn(2, 3, 56, 56)
    (feature,) = evaltk.build_backbone(found).features(images, (Recipe(),))
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features(images), pre_logits=True)
    torch.testing.assert_close(feature, wanted, rtol=1e-5, atol=1e-5)
