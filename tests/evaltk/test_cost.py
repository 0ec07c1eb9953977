"""Operations counted without values, against the formula of a ViT and a count of a real pass; rates of extraction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from family_files import FILES, path_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import evaltk
from evaltk import cli, results
from evaltk.bench import Bench, ImageOptions, Need
from evaltk.data import images
from evaltk.features.extraction import Extraction
from evaltk.models import cost
from evaltk.models.backbone import Backbone
from evaltk.running import costs
from evaltk.types import Recipe


def vit_flops(size: int, patch: int, width: int, depth: int) -> int:
    """Patches; in each block queries, keys, values, scores, their sums of values, projection and an MLP four wide."""
    patches = (size // patch) ** 2
    tokens = patches + 1
    block = 2 * tokens * width * (3 * width + width + 8 * width) + 2 * 2 * tokens * tokens * width
    return 2 * patches * 3 * patch * patch * width + depth * block


@pytest.mark.parametrize(("size", "patch", "width", "depth", "heads"), [(16, 4, 24, 2, 3), (48, 8, 32, 3, 2)])
def test_a_vits_operations_are_the_formula(size: int, patch: int, width: int, depth: int, heads: int) -> None:
    net = evaltk.build_backbone(
        evaltk.load_checkpoint(f"random:vit_patch{patch}_dim{width}_depth{depth}_heads{heads}_img{size}")
    )
    assert cost.flops(net, size) == vit_flops(size, patch, width, depth)
    assert all(p.device.type == "cpu" and type(p.data) is torch.Tensor for p in net.net.parameters())


@pytest.mark.parametrize("name", ["beit_pt", "dinov3_vit", "esvit_swin", "hf_siglip_vision", "solo_resnet18_cifar"])
def test_other_nets_count_as_in_a_real_pass(name: str, tmp_path: Path) -> None:
    made = evaltk.load_checkpoint(path_of(name, tmp_path / "folder"), **FILES[name][1])
    net, size = evaltk.build_backbone(made), min(made.arch.img_size, 64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # torch 2.6 does not count fused ones
        net.tokens(torch.zeros(1, 3, size, size))
    assert cost.flops(net, size) == counter.get_total_flops() > 0


def a_bench(net: Backbone, checkpoint: object, cache: Path) -> Bench:
    return Bench(
        checkpoint=checkpoint,  # type: ignore[arg-type]
        backbone=net,
        device="cpu",
        seed=0,
        cache=cache,
        images=ImageOptions(),
        extraction=Extraction(batch_size=3, shard=4),
    )


def test_the_rate_is_of_the_images_that_were_made(image_tree: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = evaltk.load_checkpoint("random:vit_patch4_dim32_depth2_heads2_img16")
    split = images.from_folder("data", "train", image_tree({"train/a": 5, "train/b": 5}), ["a", "b"], get="")
    bench = a_bench(evaltk.build_backbone(checkpoint), checkpoint, tmp_path / "cache")
    one, two = (Need(recipe=Recipe()),), (Need(recipe=Recipe()), Need(recipe=Recipe(tokens="mean")))
    meter = costs.Meter(bench=bench)
    with meter.extracting(split, one):
        bench.prepare(split, one)
    assert meter.images == 10 and meter.told() == {}  # too fast to say anything
    for needs, made in ((one, 10), (two, 20)):  # cached; then for the other feature
        with meter.extracting(split, needs):
            bench.prepare(split, needs)
        assert meter.images == made
    meter.seconds = 4.0
    told = meter.told()
    assert told == {"images_per_second": 5.0, "images": 20, "gflops": vit_flops(16, 4, 32, 2) / 1e9, "px": 16}
    assert costs.Meter(bench=SimpleNamespace(backbone=object()), seconds=9.0).told() == {}  # type: ignore[arg-type]


def test_the_table_shows_costs_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(costs, "LEAST", 0.0)
    run = [
        "run",
        "random:vit_patch8_dim32_depth1_heads2_img16",
        "--data",
        "digits",
        "--limit",
        "50",
        "--protocols",
        "knn",
    ]
    assert cli.main([*run, "--cache", "cache"]) == 0
    ((_, result),) = results.find(Path("runs"))
    told = result.made["cost"]
    assert isinstance(told, dict) and told["images"] == 100 and told["gflops"] == vit_flops(16, 8, 32, 1) / 1e9
    assert "GFLOPs" not in capsys.readouterr().out
    assert cli.main(["table", "--columns", "gflops", "img/s", "--format", "md"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next([cell.strip() for cell in one.split("|")[1:-1]] for one in lines if one.startswith("| random"))
    assert row[1] == f"{told['gflops']:.3f}" and np.isclose(float(row[2]), told["images_per_second"], rtol=0.01)
    assert any(line.startswith("- GFLOPs: per image, two per multiply-add") for line in lines)


def test_inspect_says_what_a_pass_costs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    word = "random:vit_patch8_dim32_depth1_heads2_img16"
    assert cli.main(["inspect", word, "--speed", "--device", "cpu", "--batch-size", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["cost"]
    assert told["gflops"] == vit_flops(16, 8, 32, 1) / 1e9 and told["px"] == 16 and told["images_per_second"] > 0
    assert cli.main(["inspect", word]) == 0
    assert "GFLOPs per image of 16 px" in capsys.readouterr().out
