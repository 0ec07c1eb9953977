"""Checkpoints that are names: random:ARCH, pixels:SIZE, timm:NAME; ResNet and XCiT equal timm's own nets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from layouts import dino_head, gap, images, save, under
from timm.models.vision_transformer import VisionTransformer

import evaltk
from evaltk.checkpoints.families import timm as timm_family
from evaltk.errors import CheckpointError, SettingsError

STATS: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def test_random_weights() -> None:
    name = "random:vit_patch8_dim24_depth2_heads3_img32"
    first, again, seeded, other = (evaltk.load_checkpoint(n) for n in (name, name, f"{name}@0", f"{name}@1"))
    assert first.digest == again.digest == seeded.digest != other.digest
    assert first.arch == evaltk.load_checkpoint(f"{name}@1").arch
    assert first.sha256 == ""
    assert (first.family, first.name) == ("random", name)
    weights = first.weights
    assert float(weights["blocks.0.attn.qkv.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert float(weights["blocks.0.norm1.weight"].min()) == 1
    assert float(weights["blocks.0.attn.qkv.bias"].abs().max()) == 0
    tiny = evaltk.load_checkpoint("random:vit_tiny_patch16_224")
    assert tiny.digest == evaltk.load_checkpoint("random:vit_patch16_dim192_depth12_heads3_img224").digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("vit_patch8_dim24_depth2_heads3_img32", "08d7e61783d90dcc"),
        ("resnet18", "bc175922884b7028"),
        ("xcit_nano_12_p16_224", "aec93708642f457c"),
    ],
)
def test_random_weights_are_the_same_bits_everywhere(name: str, digest: str) -> None:
    """Equal to the bit: caches are named by the digest, and no draw takes a value from a processor's vector library."""
    assert evaltk.load_checkpoint(f"random:{name}").digest.startswith(digest)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "xcit_nano_12_p16_224"])
def test_random_weights_are_distributed_as_timms(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        timms = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
    found = evaltk.load_checkpoint(f"random:{name}").weights
    assert found.keys() == timms.keys()
    drawn = 0
    for key, tensor in timms.items():
        if tensor.unique().numel() <= 1:  # a constant
            assert torch.equal(found[key], tensor), key
        elif tensor.numel() >= 1000:
            drawn += 1
            mine, theirs = found[key].double(), tensor.double()
            # 1,000 draws or more: their spread is told to 5 % at two standard deviations, and there are many tensors.
            assert float(mine.std() / theirs.std()) == pytest.approx(1, abs=0.15), key
            assert abs(float(mine.mean())) < 0.15 * float(mine.std())
            assert float(mine.abs().max() / mine.std()) == pytest.approx(
                float(theirs.abs().max() / theirs.std()), rel=0.4
            ), key
    assert drawn > 15


def test_random_draws_leave_the_global_stream_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    evaltk.load_checkpoint("random:vit_patch8_dim24_depth2_heads3_img32")
    evaltk.load_checkpoint("random:resnet18")
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("random:", "vit_{tiny,small,base,large}_patchP_IMG"),
        ("random:vit_huge_patch16_224", "vit_{tiny,small,base,large}_patchP_IMG"),
        ("random:vit_small_patch16_225", "patch divides img"),
        ("random:vit_small_patch0_224", "patch divides img"),
        ("random:vit_patch8_dim25_depth2_heads3_img32", "heads divide dim"),
        ("random:vit_patch1_dim65536_depth999_heads8_img1", "a net that fits"),
        ("random:vit_patch1_dim8_depth1_heads8_img99999", "a net that fits"),
        ("random:vit_small_patch16_224@x", "a whole number after @"),
        ("random:vit_small_patch16_224@", "a whole number after @"),
        ("random:vit_small_patch16_224@²", "a whole number after @"),
        ("random:resnet50d", "or a ResNet or XCiT of timm"),
        ("pixels:", "a side in pixels"),
        ("pixels:²", "a side in pixels"),
        ("pixels:0", "a side in pixels"),
        ("pixels:99999999", "a side in pixels"),
    ],
)
def test_names_that_spell_no_net(name: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        evaltk.load_checkpoint(name)
    assert words in str(caught.value)


def test_flags_may_not_contradict_a_name() -> None:
    name = "random:vit_patch8_dim24_depth2_heads3_img32"
    with pytest.raises(SettingsError, match=r"wanted 3, as random:.* states; got 6; where: --num-heads"):
        evaltk.load_checkpoint(name, num_heads=6)
    assert evaltk.load_checkpoint(name, num_heads=3, norm_eps=1e-5).arch.norm_eps == 1e-5
    with pytest.raises(SettingsError, match="--norm-eps"):
        evaltk.load_checkpoint("random:resnet18", norm_eps=1e-5)


def test_pixels() -> None:
    found = evaltk.load_checkpoint("pixels:8", **STATS)
    assert (found.arch.kind, found.arch.embed_dim, found.weights, found.mean) == ("pixels", 192, {}, STATS["mean"])
    x = images(2, 3, 8, 8)
    backbone = evaltk.build_backbone(found)
    assert torch.equal(backbone.tokens(x)[0].cls, x.flatten(1))
    with pytest.raises(SettingsError, match="images of 8 px"):
        backbone.tokens(images(2, 3, 16, 16))
    with pytest.raises(CheckpointError, match="projection head"):
        evaltk.build_head(found)
    # Flags for the nets of the same command mean nothing here.
    assert (
        evaltk.load_checkpoint("pixels:8", num_heads=3, norm_eps=1e-5).digest
        == evaltk.load_checkpoint("pixels:8").digest
    )


def moved(net: torch.nn.Module) -> torch.nn.Module:
    """The net with every weight and statistic away from its initial value."""
    draw = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=draw)
            tensor.copy_(tensor + 0.5 * noise if "running_var" in name else tensor + 0.05 * (noise - 0.5))
    return net.eval()


def original_xcit_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's key names in those of facebookresearch/xcit."""
    out = {}
    for key, tensor in weights.items():
        joint = re.fullmatch(r"(cls_attn_blocks\.\d+\.attn)\.([qkv])\.(weight|bias)", key)
        if joint and joint[2] == "q":
            parts = [weights[f"{joint[1]}.{part}.{joint[3]}"] for part in "qkv"]
            out[f"{joint[1]}.qkv.{joint[3]}"] = torch.cat(parts)
        elif not joint:
            out[key.replace("pos_embed.", "pos_embeder.")] = tensor
    return out


@pytest.mark.parametrize("name", ["resnet50"])
def test_resnet_files(name: str, tmp_path: Path) -> None:
    net = moved(timm.create_model(name, num_classes=0))
    flat = evaltk.load_checkpoint(save(net.state_dict(), tmp_path / "net.pth"), **STATS)
    assert (flat.family, flat.arch.name, flat.arch.kind) == ("flat", name, "resnet")
    net_and_head = under("backbone.", dict(net.state_dict())) | under("head.", dino_head(flat.arch.embed_dim))
    full = {"teacher": under("module.", net_and_head)}
    loaded = evaltk.load_checkpoint(save(full, tmp_path / "full.pth"))
    assert loaded.digest == flat.digest
    assert loaded.head is not None
    x = images(2, 3, 64, 96)
    backbone = evaltk.build_backbone(flat)
    tokens = backbone.tokens(x)[0]
    with torch.inference_mode():
        features = net.forward_features(x)  # type: ignore[operator]
        assert gap(tokens.cls, net.forward_head(features, pre_logits=True)) < 1e-5  # type: ignore[operator]
    assert tokens.grid == (2, 3)
    assert gap(tokens.patches, features.flatten(2).transpose(1, 2)) < 1e-5
    with pytest.raises(SettingsError, match="one last block"):
        backbone.tokens(x, last=2)


@pytest.mark.parametrize("names", ["original", "timm"])
@pytest.mark.parametrize("patch", [8, 16])
def test_xcit_files(names: str, patch: int, tmp_path: Path) -> None:
    net = moved(timm.create_model(f"xcit_nano_12_p{patch}_224", num_classes=0))
    weights = dict(net.state_dict())
    path = save(original_xcit_names(weights) if names == "original" else weights, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="wanted the pixel mean and the pixel standard deviation, which"):
        evaltk.load_checkpoint(path)  # heads and epsilons the tensors fix, the statistics nothing does
    found = evaltk.load_checkpoint(path, **STATS)
    assert (found.family, found.arch.name) == ("flat", f"xcit_nano_12_p{patch}_224")
    x = images(2, 3, 64, 4 * patch + 3)  # padded convolutions round sides up
    backbone = evaltk.build_backbone(found)
    tokens = backbone.tokens(x)[0]
    with torch.inference_mode():
        wanted = net.forward_features(x)  # type: ignore[operator]
        assert gap(tokens.cls, net.forward_head(wanted, pre_logits=True)) < 1e-5  # type: ignore[operator]
    assert gap(tokens.patches, wanted[:, 1:]) < 1e-5
    assert tokens.grid == (64 // patch, 5)
    assert tokens.patches.shape[1] == 5 * 64 // patch
    raw = backbone.tokens(x, norm=False)[0]
    assert gap(raw.cls, tokens.cls) > 1e-3
    assert gap(net.norm(raw.cls).detach(), tokens.cls) < 1e-5  # type: ignore[operator]


def test_damaged_resnets_and_xcits(tmp_path: Path) -> None:
    net = timm.create_model("resnet18", num_classes=0).state_dict()
    odd = {"layer1.x.conv1.weight": torch.ones(1), "layer9.0.a": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"unexpected layer1\.x\.conv1\.weight"):
        evaltk.load_checkpoint(save(dict(net) | odd, tmp_path / "net.pth"))
    few = {k: t for k, t in net.items() if not k.startswith("layer3.1.")}
    with pytest.raises(CheckpointError, match="wanted blocks of resnet101"):
        evaltk.load_checkpoint(save(few, tmp_path / "net.pth"))
    xcit = timm.create_model("xcit_nano_12_p16_224", num_classes=0).state_dict()
    for gone in ("cls_token", "blocks.0.attn.temperature"):
        less = {k: t for k, t in xcit.items() if k != gone}
        with pytest.raises(CheckpointError, match="a published XCiT"):
            evaltk.load_checkpoint(save(less, tmp_path / "net.pth"))
    first = {k: t for k, t in xcit.items() if k != "patch_embed.proj.0.0.weight"}
    with pytest.raises(CheckpointError, match=r"got missing patch_embed.proj.0.0.weight \(16, 3, 3, 3\)"):
        evaltk.load_checkpoint(save(first, tmp_path / "net.pth"))


def test_timm_class_heads_of_other_nets(tmp_path: Path) -> None:
    net = moved(timm.create_model("resnet18", num_classes=5))
    found = evaltk.load_checkpoint(save(net.state_dict(), tmp_path / "net.pth"), **STATS)
    assert (found.family, set(found.dropped)) == ("timm", {"fc.weight", "fc.bias"})


def test_a_timm_model_in_memory() -> None:
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    found = timm_family.from_model(net, "vit_tiny_patch16_224")
    assert found.arch is not None
    assert (found.arch.num_heads, found.arch.norm_eps, found.arch.img_size) == (3, 1e-6, 32)
    assert found.mean == (0.5, 0.5, 0.5)
    resnet = timm_family.from_model(timm.create_model("resnet18", num_classes=0), "resnet18")
    assert resnet.arch is not None
    assert resnet.arch.name == "resnet18"


def test_timm_models_with_the_same_tensors_and_other_features() -> None:
    """Names and shapes of tensors do not tell an activation, a blurred pooling, or an order of norms."""
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
    quick = VisionTransformer(**small, act_layer="quick_gelu")  # type: ignore[arg-type]
    quick.pretrained_cfg = {}
    found = timm_family.from_model(quick, "quick").arch  # read off the net in memory, and its features compared
    assert found is not None
    assert found.activation == "quickgelu"
    odd = VisionTransformer(**small, act_layer="mish")  # type: ignore[arg-type]
    odd.pretrained_cfg = {}
    with pytest.raises(CheckpointError, match="whose features differ"):
        timm_family.from_model(odd, "odd")
    blurred = timm.create_model("resnetblur50", num_classes=0)
    with pytest.raises(CheckpointError, match=r"whose features differ|unexpected"):
        timm_family.from_model(blurred, "resnetblur50")
    with pytest.raises(CheckpointError, match="a standard ViT, ResNet or XCiT"):
        timm_family.from_model(timm.create_model("convnext_atto", num_classes=0), "convnext_atto")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:vit_smal_patch16_224", "did you mean 'vit_small_patch16_224'"),
        ("timm:vit_small_patch16_224.nobody", "a timm model"),
        ("timm:vit*", "a timm model"),
        ("timm:", "a timm model"),
        ("timm:hf-hub:someone/something", "a timm model"),
    ],
)
def test_names_that_timm_lacks(name: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        evaltk.load_checkpoint(name)
    assert words in str(caught.value)


def test_timm_weights_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and with an empty cache: one clear line, no network, no random weights."""
    import huggingface_hub.constants as hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(os.environ, "TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        evaltk.load_checkpoint("timm:vit_small_patch16_224")
    line = str(caught.value)
    assert "weights of timm:vit_small_patch16_224" in line
    assert "run once with a network, or name a weight file" in line
    assert "\n" not in line


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: no minute of retries, and weights of the cache are used as they are."""
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: pytest.fail("asked for"))
    with pytest.raises(
        CheckpointError, match=r"got no answer from http://127\.0\.0\.1:9: .*; do: run once with a network"
    ):
        evaltk.load_checkpoint("timm:vit_small_patch16_224")
    monkeypatch.setattr(timm_family, "at_hand", lambda name: True)
    with pytest.raises(CheckpointError, match="a net of the cache"):
        monkeypatch.setattr(timm, "create_model", lambda *a, **k: _raise(hub.HF_HUB_OFFLINE))
        evaltk.load_checkpoint("timm:vit_small_patch16_224")
    assert not hub.HF_HUB_OFFLINE


def _raise(offline: bool) -> None:
    assert offline
    raise OSError("a net of the cache")
