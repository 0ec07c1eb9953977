"""Everything that computes, on a device that refuses to mix its tensors with the host's: the CPU's numbers to the bit.

The host may wait for the device as often as is stated here, and no more; a failure names the lines that wait.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch
from inputs import DINO, GOLDEN, METHODS, NET, TINY, digits_folder, gallery, ran, video
from PIL import Image

from pretrain import loop
from pretrain import recipe as recipes

pytestmark = pytest.mark.device
On = Callable[[str], Any]
FAMILIES = GOLDEN / "families"


def test_it_refuses_to_mix_and_counts_what_waits(on: On) -> None:
    with on("standin") as device:
        x = torch.arange(6.0, device="standin").view(2, 3)
        assert (x * 2 + 1).sum().item() == 36 and sum(device.reads.values()) == 1
        with pytest.raises(standin.MixedDevices, match="of the device's tensors with the host's"):
            x + torch.ones(2, 3)
        with pytest.raises(standin.MixedDevices):
            torch.ones(6)[torch.arange(3, device="standin")]
        weight = torch.nn.Parameter(torch.ones(3, 3, device="standin"))
        (x @ weight).square().mean().backward()
        torch.optim.AdamW([weight], lr=0.1).step()
        assert weight.grad is not None and weight.device.type == "standin"
        before = sum(device.reads.values())
        x.to("cpu", non_blocking=True)
        assert sum(device.reads.values()) == before
        assert len(x[x > 1]) == 4 and len((x > 1).nonzero()) == 4
        assert sum(device.reads.values()) == before + 2
        x.cpu()
        assert sum(device.reads.values()) == before + 3 and not device.sends
        torch.ones(2).to("standin")
        assert sum(device.sends.values()) == 1


PROTOCOLS = {
    "knn": ["--data", "digits", "--limit", "200"],
    "linear": ["--data", "digits", "--limit", "60", "--linear.fast", "--linear.epochs", "2"],
    "linear_images": ["--data", "digits", "--limit", "40", "--linear.epochs", "1", "--linear.lr", "0.1"],
    "fewshot": ["--data", "digits", "--limit", "100"],
    "transfer": ["--data", "digits", "--limit", "90", "--transfer.strengths", "3", "--transfer.max-iterations", "20"],
    "finetune": ["--data", "digits", "--limit", "40", "--finetune.epochs", "1", "--finetune.warmup-epochs", "0",
                 "--finetune.batch", "16", "--finetune.group", "8", "--finetune.repeats", "1"],
}  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_on_digits(name: str, on: On, tmp_path: Path) -> None:
    words = [NET, "--protocols", name.split("_")[0], *PROTOCOLS[name]]
    with on("cpu"):
        wanted = ran(words, tmp_path, "cpu")
    with on("standin"):
        got = ran(words, tmp_path, "standin")
    assert got.keys() == wanted.keys() and [name for name in got if got[name] != wanted[name]] == []


@pytest.mark.parametrize("name", ["vos", "retrieval", "prototypes", "precision"])
def test_a_protocol_on_the_golden_net(name: str, on: On, tmp_path: Path) -> None:
    words, sizes = "digits", ["--limit", "30" if name == "prototypes" else "200"]
    if name == "vos":
        words, sizes = f"davis2017={video(tmp_path / 'davis')}", ["--vos.size", "64"]
    if name == "retrieval":
        words, sizes = f"roxford5k={gallery(tmp_path / 'gallery')}", ["--retrieval.imsize", "64"]
    command = [*DINO, "--protocols", name, "--data", words, *sizes]
    with on("cpu"):
        wanted = ran(command, tmp_path, "cpu")
    with on("standin"):
        got = ran(command, tmp_path, "standin")
    assert got.keys() == wanted.keys() and [name for name in got if got[name] != wanted[name]] == []


def test_prototypes_of_a_matrix(on: On, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evaltk import cli

    numbers = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    numbers[50:90] = numbers[0]
    np.save(tmp_path / "w.npy", numbers)
    told = []
    for device in ("cpu", "standin"):
        with on(device):
            words = ["score", "prototypes", "--matrix", str(tmp_path / "w.npy"), "--device", device, "--json"]
            assert cli.main(words) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] and "threshold" in told[0]


def family_nets() -> dict[str, tuple[str, dict[str, Any]]]:
    """A file of each family, and of the heads that differ in how a net is built, by what `--family` would say."""
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    heads = {"num_heads": 3}
    bare = heads | {"norm_eps": 1e-6} | imagenet
    return {
        "beit2_pt_checkpoint.pth": ("beit", {}),
        "clip_vit_half_checkpoint.pt": ("clip", {"activation": "quickgelu"}),
        "deit_distilled_checkpoint.pth": ("deit", heads),
        "dinov2_swiglu_reg_pretrain_checkpoint.pth": ("dinov2", heads),
        "dinov3_vit_checkpoint.pth": ("dinov3", {}),
        "esvit_swin_checkpoint.pth": ("swin", {}),
        "ijepa_checkpoint.pth.tar": ("ijepa", heads),
        "lightly_dino_vit_checkpoint.ckpt": ("flat", bare),
        "mae_pretrain_checkpoint.pth": ("mae", heads),
        "mocov3_conv_checkpoint.pth.tar": ("mocov3", {"num_heads": 4}),
        "moby_swin_checkpoint.pth": ("swin", {}),
        "timm_train_checkpoint.pth.tar": ("timm", bare),
        "vissl_resnet50_checkpoint.torch": ("resnet", {}),
    }


OF_FAMILIES = family_nets() | {
    "../dino_p16_full_checkpoint.pth": ("dino", {"num_heads": 3}),
    "../ibot_checkpoint.pth": ("ibot", {"num_heads": 3}),
    "../msn_checkpoint.pth.tar": ("msn", {"num_heads": 3}),
}


@pytest.mark.parametrize("file", OF_FAMILIES)
def test_the_backbone_of_a_family(file: str, on: On) -> None:
    from evaltk import build_backbone, build_head, load_checkpoint

    family, said = OF_FAMILIES[file]
    checkpoint = load_checkpoint(FAMILIES / file, **said)
    assert checkpoint.family == family
    side = checkpoint.arch.img_size
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with on("cpu"):
        wanted = build_backbone(checkpoint).tokens(x)[0]
    with on("standin") as device:
        net = build_backbone(checkpoint, device="standin")
        sent = x.to("standin")
        device.reads.clear()
        got = net.tokens(sent)[0]
        assert not device.reads, device.reads
        assert torch.equal(got.cls.cpu(), wanted.cls) and torch.equal(got.patches.cpu(), wanted.patches)
        if checkpoint.head is not None:
            head = build_head(checkpoint)
            assert torch.equal(head.embed(got.cls.cpu()), head.embed(wanted.cls))


class Kept:
    """Keeps what each step's waits were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[collections.Counter[str]] = []
        self.mode: standin.Standin | None = None
        real = loop.train_step

        def step(*args: Any, **rest: Any) -> Any:
            before = collections.Counter(self.mode.reads) if self.mode else collections.Counter()
            record = real(*args, **rest)
            if self.mode:
                self.steps.append(self.mode.reads - before)
            return record

        monkeypatch.setattr(loop, "train_step", step)


def trained(name: str, data: Path, out: Path, device: str, *more: str) -> dict[str, Any]:
    """The tensors of a run's last checkpoint. 120 images are five steps."""
    made = recipes.load("digits_dino_vmf", [*TINY, *METHODS[name], f"data.source=folder={data}", *more])
    assert loop.run(made, out=out, device=device) == 0
    return dict(flat(torch.load(out / "checkpoint.pth", weights_only=True)))


def flat(tree: Any, name: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(name, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else []
    return [pair for key, value in items for pair in flat(value, f"{name}.{key}")]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", METHODS)
def test_five_steps_with_views_on_the_device(
    name: str, on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, kept = digits_folder(tmp_path / "data", 120), Kept(monkeypatch)
    with on("cpu"):
        wanted = trained(name, data, tmp_path / "cpu", "cpu")
    with on("standin") as device:
        kept.mode = device
        got = trained(name, data, tmp_path / "standin", "standin")
    assert same(got, wanted)
    assert all(tensor.device.type == "cpu" for tensor in got.values())
    assert len(kept.steps) == 5
    for waits in kept.steps:
        assert sum(waits.values()) <= 1, waits


def test_a_run_begun_on_the_cpu_goes_on_on_the_device(on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    data = digits_folder(tmp_path / "data", 120)
    with on("cpu"):
        wanted = trained("dino_vmf", data, tmp_path / "whole", "cpu", "optim.epochs=2")
    real = loop.train_step

    def stopping(*args: Any, **rest: Any) -> Any:
        record = real(*args, **rest)
        return dataclasses.replace(record, stop=record.step == 6)

    made = recipes.load("digits_dino_vmf", [*TINY, f"data.source=folder={data}", "optim.epochs=2"])
    monkeypatch.setattr(loop, "train_step", stopping)
    with on("cpu"):
        assert loop.run(made, out=tmp_path / "parts", device="cpu") == loop.REQUEUE
    monkeypatch.setattr(loop, "train_step", real)
    with on("standin"):
        got = trained("dino_vmf", data, tmp_path / "parts", "standin", "optim.epochs=2")
    assert same(got, wanted)


def test_features_are_read_back_once_a_batch(on: On, tmp_path: Path) -> None:
    from evaltk import build_backbone, load_checkpoint
    from evaltk.data import images, transforms
    from evaltk.features.extraction import Extraction, extract
    from evaltk.types import Recipe

    pixels = np.stack([np.asarray(Image.effect_noise((16, 16), 60 + i).convert("RGB")) for i in range(40)])
    split = images.from_arrays("noise", "train", pixels, np.zeros(40, dtype=np.int64), ["one"])
    checkpoint = load_checkpoint(NET)
    view = transforms.view("eval", 16, checkpoint.mean, checkpoint.std)
    specs, how = [Recipe(), Recipe(last=2)], Extraction(batch_size=8, workers=0)
    found = {}
    for device in ("cpu", "standin"):
        with on(device) as mode:
            net = build_backbone(checkpoint, device=device)
            if mode:
                mode.reads.clear()
                mode.sends.clear()
            found[device] = extract(net, split, view, specs, cache=tmp_path / device, how=how)
            if mode:
                assert sum(mode.reads.values()) <= 5 and not mode.sends, (mode.reads, mode.sends)
    for spec in specs:
        assert np.array_equal(found["cpu"][spec].x, found["standin"][spec].x)
