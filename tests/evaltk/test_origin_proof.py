"""What proves whose weights a file holds: its layout, its bytes, the user's word, or nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from evaltk import cli, files, load_checkpoint, results
from evaltk.errors import CheckpointError
from evaltk.prototypes.head import head_of
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, OriginProof

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
FLAGS = ["--num-heads", "2", "--norm-eps", "1e-6", "--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225"]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without pins."""
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def saved(path: Path, tree: object) -> Path:
    torch.save(tree, path)
    return path


@pytest.fixture
def weights() -> Mapping[str, torch.Tensor]:
    return load_checkpoint(NET).weights


STATED = {"num_heads": 2, "norm_eps": 1e-6, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def proof(path: Path, **given: object) -> OriginProof:
    return load_checkpoint(path, **STATED | given).origin_proof  # type: ignore[arg-type]


def test_a_training_checkpoint_proves_its_method_by_its_layout(tmp_path: Path, weights: dict) -> None:
    teacher = {f"backbone.{k}": t for k, t in weights.items()}
    full = saved(tmp_path / "full.pth", {"teacher": teacher, "student": teacher, "epoch": 3})
    assert proof(full) is OriginProof.LAYOUT and proof(full, family="dino") is OriginProof.LAYOUT
    assert proof(full, family="ibot") is OriginProof.USER  # which the layout alone would not say
    for name in ("ibot_checkpoint.pth", "msn_checkpoint.pth.tar", "dino_p16_full_checkpoint.pth"):
        assert load_checkpoint(GOLDEN / name, num_heads=3).origin_proof is OriginProof.LAYOUT


def test_tensors_alone_prove_nothing(tmp_path: Path, weights: dict) -> None:
    flat = saved(tmp_path / "flat.pth", dict(weights))
    assert (load_checkpoint(flat, **STATED).family, proof(flat)) == ("flat", OriginProof.NONE)  # type: ignore[arg-type]
    assert proof(flat, family="dino") is OriginProof.USER
    nested = saved(tmp_path / "nested.pth", {"state_dict": dict(weights)})
    assert (load_checkpoint(nested, **STATED).family, proof(nested)) == ("flat", OriginProof.NONE)  # type: ignore[arg-type]
    assert load_checkpoint(NET).origin_proof is OriginProof.NONE


def test_pinned_bytes_prove_a_flat_file(tmp_path: Path, home: Path, weights: dict) -> None:
    flat = saved(tmp_path / "flat.pth", dict(weights))

    def pin(name: str, sha256: str) -> None:
        (home / "pins.json").write_text(json.dumps({name: {"sha256": sha256}}))

    pin("dino_vits16", files.sha256(flat))
    found = load_checkpoint(flat, num_heads=2)  # the rest is known: it is DINO's
    assert (found.family, found.arch.norm_eps, found.mean) == ("dino", 1e-6, IMAGENET_MEAN)
    assert proof(flat) is OriginProof.SHA256 and proof(flat, family="dino") is OriginProof.SHA256
    assert proof(flat, family="ibot") is OriginProof.USER  # another family than the catalogue's
    pin("dino_vits16", "0" * 64)
    assert proof(flat) is OriginProof.NONE
    pin("not_in_the_catalogue", files.sha256(flat))
    assert proof(flat) is OriginProof.NONE
    (home / "pins.json").write_text("{")
    assert proof(flat) is OriginProof.NONE


def test_a_converted_file_is_proved_by_what_it_was_made_of(tmp_path: Path, weights: dict) -> None:
    teacher = {f"backbone.{k}": t for k, t in weights.items()}
    full = saved(tmp_path / "full.pth", {"teacher": teacher, "student": teacher, "epoch": 3})
    flat = saved(tmp_path / "flat.pth", dict(weights))
    for path, wanted in ((full, OriginProof.LAYOUT), (flat, OriginProof.NONE)):
        out = path.with_suffix(".safetensors")
        assert cli.main(["convert", str(path), str(out), *FLAGS]) == 0
        found = load_checkpoint(out)
        assert (found.family, found.origin_proof) == ("own", wanted)


def test_results_name_the_catalogued_file(tmp_path: Path, home: Path, weights: dict) -> None:
    flat = saved(tmp_path / "renamed.pth", dict(weights))
    assert load_checkpoint(flat, **STATED).catalogued == ""  # type: ignore[arg-type]
    (home / "pins.json").write_text(json.dumps({"dino_vits16": {"sha256": files.sha256(flat)}}))
    assert load_checkpoint(flat, num_heads=2).catalogued == "dino_vits16"
    assert load_checkpoint(flat, family="ibot", num_heads=2).catalogued == ""
    where = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    small = ["--num-heads", "2", "--limit", "40", "--knn.k", "3", "--protocols", "knn", "--data", "digits"]
    assert cli.main(["run", str(flat), *small, *where]) == 0
    ((_, result),) = results.find(tmp_path / "runs")
    assert (result.checkpoint["name"], result.checkpoint["catalogued"]) == ("renamed", "dino_vits16")


def test_a_file_without_prototypes_is_told_of_its_own_methods_full_files() -> None:
    plain = load_checkpoint(NET)
    for family, catalogued, words in (
        ("dino", "", "dino_vits16_full and others"),
        ("resnet", "", "use the full training checkpoint"),  # SwAV's is no help to someone with Barlow Twins
        ("resnet", "barlowtwins_resnet50", "use the full training checkpoint"),
        ("resnet", "swav_resnet50_800ep", "swav_resnet50_800ep and others"),
        ("mocov3", "mocov3_vits16", "use the full training checkpoint"),
    ):
        with pytest.raises(CheckpointError) as caught:
            head_of(dataclasses.replace(plain, family=family, catalogued=catalogued))
        assert words in caught.value.do and ("others" in caught.value.do) == ("others" in words)
