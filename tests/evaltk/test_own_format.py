"""The project's own files: converted checkpoints and training checkpoints, read back exactly or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from layouts import ARCH, GOLDEN, STATS, dino_full, gap, ibot_full, images, msn_full, save, under, vit
from safetensors import safe_open
from safetensors.torch import save_file

import evaltk
from evaltk.checkpoints.families import own
from evaltk.cli import main
from evaltk.errors import CheckpointError, SettingsError
from evaltk.types import Checkpoint

TREES = {"dino": dino_full, "ibot": ibot_full, "msn": msn_full}


def original(method: str, tmp_path: Path) -> Checkpoint:
    return evaltk.load_checkpoint(save(TREES[method](), tmp_path / f"{method}.pth"), num_heads=3)


def converted(checkpoint: Checkpoint, tmp_path: Path, added: dict[str, Any] | None = None, **changed: Any) -> Path:
    """A converted file, its statement changed."""
    tensors, metadata = own.pack(checkpoint)
    statement = json.loads(metadata["evaltk"]) | changed
    if changed:
        statement.pop("crc32", None)
    path = tmp_path / "own.safetensors"
    save_file(
        tensors | (added or {}), path, {"evaltk": json.dumps({k: v for k, v in statement.items() if v is not ...})}
    )
    return path


@pytest.mark.parametrize("method", TREES)
def test_convert_and_read_back(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(TREES[method](), tmp_path / "net.pth.tar")
    out = tmp_path / "net.safetensors"
    assert main(["convert", str(source), str(out), "--num-heads", "3", "--std", "0.2", "0.2", "0.3"]) == 0
    before = evaltk.load_checkpoint(source, num_heads=3, std=(0.2, 0.2, 0.3))
    after = evaltk.load_checkpoint(out)
    assert capsys.readouterr().out.split() == [str(out), after.sha256]
    assert (after.family, after.branch, after.epoch) == ("own", before.branch, before.epoch)
    assert (after.digest, after.arch, after.mean, after.std) == (before.digest, before.arch, before.mean, before.std)
    assert after.notes == before.notes
    x = images(2, 3, 48, 32)
    cls = [evaltk.build_backbone(c).tokens(x)[0].cls for c in (before, after)]
    assert torch.equal(*cls)
    heads = [evaltk.build_head(c) for c in (before, after)]
    logits = [h.logits(h.embed(cls[0])) for h in heads]
    assert torch.equal(*logits)
    assert torch.equal(*(h.patch_prototypes for h in heads))
    if method != "msn":
        assert torch.equal(*(h.center for h in heads))


@pytest.mark.parametrize(
    "name",
    ["random:resnet18", "random:xcit_nano_12_p16_224", "pixels:8", "random:vit_patch8_dim24_depth1_heads2_img16"],
)
def test_nets_of_other_kinds_convert(name: str, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    assert main(["convert", name, str(out)]) == 0
    before, after = evaltk.load_checkpoint(name), evaltk.load_checkpoint(out)
    assert (after.digest, after.arch, after.weights.keys()) == (before.digest, before.arch, before.weights.keys())


def test_nets_with_all_that_an_architecture_can_have(tmp_path: Path) -> None:
    arch = dataclasses.replace(ARCH, registers=2, layer_scale=True, norm_eps=3e-6)
    weights = vit(arch) | {"mask_token": torch.ones(1, 24)}
    before = evaltk.load_checkpoint(save(weights, tmp_path / "net.pth"), num_heads=3, norm_eps=3e-6, **STATS)
    after = evaltk.load_checkpoint(converted(before, tmp_path))
    assert after.arch == before.arch
    assert after.digest == before.digest
    assert "mask_token" in after.weights


def test_half_precision_converts_to_the_same_net(tmp_path: Path) -> None:
    half = {
        k: {n: t.half() for n, t in b.items()} if k in ("teacher", "student") else b for k, b in dino_full().items()
    }
    before = evaltk.load_checkpoint(save(half, tmp_path / "half.pth"), num_heads=3)
    after = evaltk.load_checkpoint(converted(before, tmp_path))
    assert after.digest == before.digest
    heads = [evaltk.build_head(c) for c in (before, after)]
    y = images(3, 8)
    assert torch.equal(*(h.logits(y) for h in heads))


def test_convert_refuses_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(vit(), tmp_path / "net.pth")
    out = tmp_path / "net.safetensors"
    out.write_text("mine")
    assert main(["convert", str(source), str(out), "--num-heads", "3"]) == 2
    assert "pass --force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["convert", str(source), str(tmp_path / "net.pt"), "--num-heads", "3"]) == 2
    assert "a name ending in .safetensors" in capsys.readouterr().err
    assert main(["convert", str(source), str(out), "--force"]) == 2
    assert "--num-heads" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["convert", str(source), str(source / "net.safetensors"), "--num-heads", "3", "--family", "dino"]) == 2
    assert "a folder to write into" in capsys.readouterr().err
    assert main(["convert", str(source), str(out), "--force", "--num-heads", "3", "--family", "dino"]) == 0
    # Onto itself: what is read stays readable until the new file takes its place.
    digest = evaltk.load_checkpoint(out).digest
    assert main(["convert", str(out), str(out), "--force"]) == 0
    assert evaltk.load_checkpoint(out).digest == digest
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_converted_files_hold_the_architecture_for_other_readers(tmp_path: Path) -> None:
    path = converted(original("dino", tmp_path), tmp_path)
    with safe_open(path, framework="pt") as file:
        statement = json.loads(file.metadata()["evaltk"])
        assert "weights.cls_token" in file.keys()  # noqa: SIM118
    assert statement["arch"]["num_heads"] == 3
    assert (statement["family"], statement["branch"], statement["head"]) == ("dino", "teacher", "dino")


@pytest.mark.parametrize(
    ("said", "flag"),
    [
        ({"num_heads": 7}, "--num-heads"),
        ({"num_heads": 6}, "--num-heads"),
        ({"norm_eps": 1e-5}, "--norm-eps"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean"),
        ({"std": (0.5, 0.5, 0.5)}, "--std"),
    ],
)
@pytest.mark.parametrize("form", ["converted", "training"])
def test_flags_may_not_contradict_the_file(form: str, said: dict[str, Any], flag: str, tmp_path: Path) -> None:
    path = (
        converted(original("dino", tmp_path), tmp_path)
        if form == "converted"
        else save(training("dino"), tmp_path / "net.pth")
    )
    with pytest.raises(SettingsError) as caught:
        evaltk.load_checkpoint(path, **said)
    assert flag in str(caught.value)
    assert "states" in str(caught.value)
    assert evaltk.load_checkpoint(path, num_heads=3, norm_eps=1e-6, mean=(0.485, 0.456, 0.406)).arch.num_heads == 3


def test_a_branch_that_a_converted_file_lacks(tmp_path: Path) -> None:
    path = converted(original("dino", tmp_path), tmp_path)
    assert evaltk.load_checkpoint(path, branch="teacher").branch == "teacher"
    with pytest.raises(CheckpointError, match="holds one net only"):
        evaltk.load_checkpoint(path, branch="student")


def arch_of(**changed: Any) -> dict[str, Any]:
    told = dataclasses.asdict(ARCH) | changed
    return {k: v for k, v in told.items() if v is not ...}


@pytest.mark.parametrize(
    "changed",
    [
        {"arch": ...},
        {"arch": None},
        {"arch": []},
        {"arch": arch_of(patch_size="8")},
        {"arch": arch_of(patch_size=0)},
        {"arch": arch_of(patch_size=-8)},
        {"arch": arch_of(num_heads=0)},
        {"arch": arch_of(num_heads=5)},
        {"arch": arch_of(num_heads=True)},
        {"arch": arch_of(depth=10**9)},
        {"arch": arch_of(depth=-1)},
        {"arch": arch_of(norm_eps=0.0)},
        {"arch": arch_of(norm_eps=float("nan"))},
        {"arch": arch_of(mlp_ratio=-1.0)},
        {"arch": arch_of(mlp_ratio=1e300)},
        {"arch": arch_of(img_size=4)},
        {"arch": arch_of(kind="swin")},
        {"arch": arch_of(registers=-1)},
        {"arch": arch_of(layer_scale="yes")},
        {"arch": arch_of(embed_dim=...)},
        {"arch": arch_of(window=7)},
        {"mean": [0.5, 0.5]},
        {"mean": "abc"},
        {"mean": [None, 0.5, 0.5]},
        {"std": [0.0, 0.5, 0.5]},
        {"std": [float("nan"), 0.5, 0.5]},
        {"std": ...},
        {"head": "byol"},
        {"format": ...},
        {"scoring": "guess"},
        {"centering": 5},
    ],
)
def test_a_damaged_statement(changed: dict[str, Any], tmp_path: Path) -> None:
    path = converted(original("dino", tmp_path), tmp_path, **changed)
    with pytest.raises(CheckpointError, match="a damaged one") as caught:
        evaltk.load_checkpoint(path)
    assert "convert or train again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000])
def test_a_statement_that_is_no_object(text: str, tmp_path: Path) -> None:
    tensors, _ = own.pack(original("dino", tmp_path))
    save_file(tensors, tmp_path / "own.safetensors", {"evaltk": text})
    with pytest.raises(CheckpointError, match="a damaged one"):
        evaltk.load_checkpoint(tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"arch": arch_of(depth=1)}, "unexpected blocks.1"),
        ({"arch": arch_of(depth=3)}, "missing blocks.2"),
        ({"arch": arch_of(mlp_ratio=3.0)}, "other shapes: blocks.0.mlp.fc1.weight"),
        ({"arch": arch_of(class_position=False)}, "other shapes: pos_embed"),
        ({"arch": arch_of(kind="pixels")}, "unexpected blocks.0"),
        ({"arch": arch_of(kind="resnet", name="hf-hub:someone/net")}, "wanted blocks of resnet101"),
        ({"head": None}, "unexpected head"),
    ],
)
def test_a_statement_that_the_tensors_contradict(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        evaltk.load_checkpoint(converted(original("dino", tmp_path), tmp_path, **changed))
    assert words in str(caught.value), str(caught.value)


def test_a_name_in_the_statement_builds_no_other_net(tmp_path: Path) -> None:
    """timm would take such a name to the network."""
    net = timm.create_model("resnet18", num_classes=0).state_dict()
    before = evaltk.load_checkpoint(save(net, tmp_path / "net.pth"), **STATS)
    for name in ("hf-hub:someone/net", "resnet34", "resnet18d"):
        path = converted(before, tmp_path, arch=dataclasses.asdict(before.arch) | {"name": name})
        with pytest.raises(CheckpointError, match="one architecture"):
            evaltk.load_checkpoint(path)


def test_a_tensor_that_a_converted_file_should_not_have(tmp_path: Path) -> None:
    tensors, metadata = own.pack(original("dino", tmp_path))
    for key in ("other", "weights.other", "head.other", "head_center.x"):
        path = tmp_path / "own.safetensors"
        path.unlink(missing_ok=True)
        save_file(tensors | {key: torch.ones(2)}, path, metadata)
        with pytest.raises(CheckpointError, match=r"another checksum"):
            evaltk.load_checkpoint(path)
        path = converted(original("dino", tmp_path), tmp_path, added={key: torch.ones(2)}, tensors_crc32=...)
        with pytest.raises(CheckpointError, match=r"unexpected|left over"):
            evaltk.load_checkpoint(path)


@pytest.mark.parametrize("found", [2, 0, "1", None])
def test_other_formats(found: object, tmp_path: Path) -> None:
    for path in (
        converted(original("dino", tmp_path), tmp_path, format=found),
        save(training("dino", evaltk_format=found), tmp_path / "net.pth"),
    ):
        with pytest.raises(CheckpointError, match="evaltk's file format 1") as caught:
            evaltk.load_checkpoint(path)
        assert ("install a newer evaltk" in str(caught.value)) == (found == 2)


def training(method: str, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """As `pretrain` writes it: the method's own layout and what the run states of itself."""
    told = {
        "method": method,
        "arch": dataclasses.asdict(ARCH) | {"mlp_ratio": 2},  # a whole number where JSON makes it one
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "recipe": {"method": {"scoring": "vmf", "centering": "probability"}, "run": {"seed": 42}},
    }
    mark = {"evaltk_format": 1, "config": json.dumps(told | (config or {})), "progress": {"step": 3}}
    return TREES[method]() | mark | more


@pytest.mark.parametrize("method", TREES)
def test_training_checkpoints(method: str, tmp_path: Path) -> None:
    plain = original(method, tmp_path)
    found = evaltk.load_checkpoint(save(training(method), tmp_path / "net.pth"))
    assert (found.family, found.branch, found.epoch) == ("own", plain.branch, plain.epoch)
    assert found.digest == plain.digest
    assert dataclasses.replace(found.arch, name="") == dataclasses.replace(plain.arch, name="")
    assert found.dropped["progress"] == found.dropped["config"] == "bookkeeping"
    x = images(3, 24)
    heads = [evaltk.build_head(c) for c in (plain, found)]
    assert torch.equal(*(h.logits(h.embed(x)) for h in heads))
    assert found.head is not None
    assert (found.head.scoring, found.head.centering, found.trained_seed) == ("vmf", "probability", 42)
    assert main(["convert", str(tmp_path / "net.pth"), str(tmp_path / "net.safetensors")]) == 0
    assert evaltk.load_checkpoint(tmp_path / "net.safetensors").trained_seed == 42
    other = {"dino": "student", "ibot": "student", "msn": "encoder"}[method]
    student = evaltk.load_checkpoint(tmp_path / "net.pth", branch=other)
    assert student.branch == other
    assert student.digest != found.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": "{"}, "a damaged one"),
        ({"config": 5}, "a damaged one"),
        ({"config": None}, "a damaged one"),
        ({"config": json.dumps({"method": "byol"})}, "a damaged one"),
        ({"sampler": {"state": torch.ones(2)}}, "unexpected sampler.state"),
        ({"teacher": under("backbone.", vit(dataclasses.replace(ARCH, depth=3)))}, "unexpected blocks.2"),
    ],
)
def test_damaged_training_checkpoints(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        evaltk.load_checkpoint(save(training("dino") | change, tmp_path / "net.pth"))
    assert words in str(caught.value), str(caught.value)


def test_a_training_checkpoint_without_its_config(tmp_path: Path) -> None:
    tree = {k: v for k, v in training("msn").items() if k != "config"}
    with pytest.raises(CheckpointError, match="a damaged one"):
        evaltk.load_checkpoint(save(tree, tmp_path / "net.pth"))


@pytest.mark.parametrize("form", ["converted", "training"])
def test_a_flipped_bit_of_a_weight_is_noticed(form: str, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    if form == "converted":
        save_file(*own.pack(original("dino", tmp_path))[:1], path, own.pack(original("dino", tmp_path))[1])
    else:
        path = save(training("dino"), tmp_path / "net.pth")
    whole = path.read_bytes()
    evaltk.load_checkpoint(path)
    data = bytearray(whole)
    data[len(data) // 2] ^= 4  # amid the numbers
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a file as evaltk wrote it.*do: copy it again"):
        evaltk.load_checkpoint(path)


def test_the_golden_file_converts(tmp_path: Path) -> None:
    before = evaltk.load_checkpoint(GOLDEN / "dino_p16_full_checkpoint.pth", num_heads=3)
    after = evaltk.load_checkpoint(converted(before, tmp_path))
    assert after.digest == before.digest
    heads = [evaltk.build_head(c) for c in (before, after)]
    assert gap(*(h.prototypes for h in heads)) == 0
