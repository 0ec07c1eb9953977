"""A folder as a checkpoint: hub folders with their configs, shards, symlinked caches, and folders of training runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import FLAT, GOLDEN, save, vit
from safetensors.torch import save_file

import evaltk
from evaltk.checkpoints import folder, locate, rawfile
from evaltk.errors import CheckpointError

FAMILIES = GOLDEN / "families"
CONFIG = {"model_type": "vit", "num_attention_heads": 3}


def refused(path: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        rawfile.read(locate.locate(path))
    line = str(caught.value)
    for word in words:
        assert word in line, line
    return line


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def hub_folder(root: Path, name: str = "hf_vit_dino", file: str = "pytorch_model.bin") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    source = next(FAMILIES.glob(f"{name}_checkpoint.*"))
    shutil.copyfile(source, root / file)
    shutil.copyfile(FAMILIES / f"{name}_config.json", root / "config.json")
    return root


def sharded(root: Path, *, kind: str = "safetensors", change: Callable[[dict], None] = lambda _: None) -> Path:
    """vit() in two shards with their index; `change` alters the index."""
    root.mkdir(exist_ok=True)
    whole, first = vit(), "pytorch_model" if kind == "bin" else "model"
    names = [f"{first}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    parts: list[dict[str, torch.Tensor]] = [dict(list(whole.items())[i::2]) for i in (0, 1)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, root / name) if kind == "safetensors" else save(part, root / name)
    index = {"metadata": {"total_size": 1}, "weight_map": {k: n for n, p in zip(names, parts, strict=True) for k in p}}
    change(index)
    write_json(root / f"{first}.{kind}.index.json", index)
    write_json(root / "config.json", CONFIG)
    return root


@pytest.mark.parametrize(
    ("name", "file"), [("hf_vit_dino", "pytorch_model.bin"), ("timm_hub", "model.safetensors")]
)  # fmt: skip
def test_a_hub_folder_and_its_file_are_one_checkpoint(name: str, file: str, tmp_path: Path) -> None:
    root = hub_folder(tmp_path / "tiny-vit", name, file)
    write_json(root / "preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]})
    whole, lone = rawfile.read(locate.locate(root)), rawfile.read(locate.locate(root / file))
    assert (whole.path, lone.path) == (root, root / file)
    assert whole.config == lone.config == json.loads((root / "config.json").read_text())
    assert whole.preprocessor == lone.preprocessor == {"image_mean": [0.5, 0.5, 0.5]}
    assert whole.sha256 == lone.sha256 and whole.weights_sha256 == (locate.sha256(root / file),)
    assert list(whole.tree) == list(lone.tree)
    assert locate.locate(root).name == "tiny-vit"
    original = rawfile.read(next(FAMILIES.glob(f"{name}_checkpoint.*")))
    assert original.config == {} and original.weights_sha256 == (original.sha256,)
    assert all(torch.equal(whole.tree[k], original.tree[k]) for k in original.tree)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "pytorch_model.bin"])
def test_what_decides_the_net_decides_the_digest(name: str, tmp_path: Path) -> None:
    root = hub_folder(tmp_path / "a")
    write_json(root / "preprocessor_config.json", {"size": 1})
    before = locate.locate(root).sha256
    (root / "README.md").write_text("more")
    assert locate.locate(root).sha256 == before
    changed = json.dumps({"other": 1}) if name.endswith("json") else None
    save(vit(), root / name) if changed is None else (root / name).write_text(changed)
    assert locate.locate(root).sha256 != before


def test_safetensors_are_taken_before_bins(tmp_path: Path) -> None:
    root = hub_folder(tmp_path / "a")
    save_file(vit(), root / "model.safetensors")
    (root / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert set(rawfile.read(root).tree) == set(vit())


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_an_open_clip_folder(name: str, tmp_path: Path) -> None:
    save_file(vit(), tmp_path / name) if name.endswith("safetensors") else save(vit(), tmp_path / name)
    write_json(tmp_path / "open_clip_config.json", {"model_cfg": {}})
    assert rawfile.read(tmp_path).config == {"model_cfg": {}}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_one_net(kind: str, tmp_path: Path) -> None:
    raw = rawfile.read(locate.locate(sharded(tmp_path / "net", kind=kind)))
    assert set(raw.tree) == set(vit()) and len(raw.weights_sha256) == 2
    assert raw.config == CONFIG
    loaded = evaltk.load_checkpoint(tmp_path / "net", **FLAT)
    assert loaded.digest == evaltk.load_checkpoint(save(vit(), tmp_path / "whole.pth"), **FLAT).digest
    assert loaded.sha256 == raw.sha256


def test_shards_that_are_not_as_their_index_says(tmp_path: Path) -> None:
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    root = sharded(tmp_path / "missing")
    (root / two).unlink()
    refused(root, "2 shards", f"1 missing: {two}")
    refused(root / one, "one shard", f"name its folder, {root}")

    def elsewhere(index: dict) -> None:
        index["weight_map"]["norm.bias"] = "../other.safetensors"

    def swapped(index: dict) -> None:
        index["weight_map"]["norm.bias"] = one if index["weight_map"]["norm.bias"] == two else two

    def absent(index: dict) -> None:
        index["weight_map"]["more"] = one

    def unnamed(index: dict) -> None:
        del index["weight_map"]["norm.bias"]

    refused(sharded(tmp_path / "a", change=elsewhere), "its own folder", "../other")
    refused(sharded(tmp_path / "b", change=swapped), "norm.bias in")
    refused(sharded(tmp_path / "c", change=absent), "in no shard, as more")
    refused(sharded(tmp_path / "d", change=unnamed), "norm.bias in", "says nothing")
    refused(sharded(tmp_path / "e", change=lambda index: index.pop("weight_map")), "weight_map")
    root = sharded(tmp_path / "twice")
    save_file(vit(), root / two)
    refused(root, "of which the index says")


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000, '{"a": ' * 100_000, '"\\ud800', "\x80"],
    ids=range(9),
)
def test_a_config_that_is_none(text: str, tmp_path: Path) -> None:
    root = hub_folder(tmp_path)
    (root / "config.json").write_bytes(text.encode("latin1"))
    refused(root, "a JSON object", "config.json")


def test_a_huge_config(tmp_path: Path) -> None:
    root = hub_folder(tmp_path)
    write_json(root / "config.json", {"a": "x" * folder.JSON_BYTES})
    refused(root, "bytes", "config.json")


def test_a_cache_of_the_hub_with_its_symlinks(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--tiny"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "abc123"
    for path in hub_folder(tmp_path / "plain").iterdir():
        blobs.mkdir(parents=True, exist_ok=True)
        snapshot.mkdir(parents=True, exist_ok=True)
        blob = blobs / locate.sha256(path)
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    found, plain = locate.locate(snapshot), locate.locate(tmp_path / "plain")
    assert found.sha256 == plain.sha256 and found.name == "org/tiny"
    assert rawfile.read(found).config["model_type"] == "vit"
    (blobs / locate.sha256(snapshot / "pytorch_model.bin")).unlink()
    refused(snapshot, "no such file")


def test_one_weight_file_and_nothing_else(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "net" / "x.pth") if (tmp_path / "net").mkdir() is None else tmp_path
    (tmp_path / "net" / "README.md").write_text("a net")
    found = locate.locate(tmp_path / "net")
    assert (found.path, found.sha256, found.name) == (path, locate.sha256(path), "x")
    (tmp_path / "net" / "log.txt").write_text("more")
    refused(tmp_path / "net", "a folder holding", "'log.txt'", "name one file")


def test_a_file_of_another_name_takes_no_config(tmp_path: Path) -> None:
    root = hub_folder(tmp_path, file="weights.bin")
    assert rawfile.read(root / "weights.bin").config == {}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["config.json", "tf_model.h5"], ("TensorFlow weights only", "from_tf=True")),
        (["config.json", "flax_model.msgpack"], ("Flax weights only", "from_flax=True")),
        (["adapter_config.json", "adapter_model.safetensors"], ("LoRA", "merge it")),
        (["saved_model.pb", "variables/variables.index"], ("TensorFlow SavedModel",)),
        (["model_index.json", "unet/config.json"], ("diffusers",)),
        (["model.onnx"], ("ONNX",)),
        ([".metadata", "__0_0.distcp", "__1_0.distcp"], ("FSDP or DCP", "dcp_to_torch", "out.pth")),
        (["pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp"], ("FSDP", "pytorch_model_fsdp_0 out")),
        ([".metadata", "__0_0.distcp", "meta.pt"], ("Lightning", "consolidate_checkpoint")),
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], ("DeepSpeed", "zero_to_fp32.py")),
        (["checkpoint/zero_pp_rank_0_mp_rank_00_model_states.pt", "latest"], ("DeepSpeed", "ZeRO stage 3")),
        (["model_rank0.pt", "model_rank1.pt"], ("every process", "FULL_STATE_DICT")),
        (["checkpoint", "model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"], ("TensorFlow checkpoint",)),
        (["_CHECKPOINT_METADATA", "manifest.ocdbt"], ("Orbax",)),
        (["latest_checkpointed_iteration.txt"], ("Megatron",)),
        (["checkpoint.pth", "checkpoint.before.pth", "log.jsonl"], ("'checkpoint.pth'", "name one file inside")),
    ],
)
def test_folders_in_other_forms(files: list[str], words: tuple[str, ...], tmp_path: Path) -> None:
    for name in files:
        write_json(tmp_path / name, "checkpoint" if name == "latest" else "{}")
    refused(tmp_path, *words)


@pytest.mark.parametrize("inside", [".", "checkpoint", "global_step10"])
def test_whole_weights_that_deepspeed_wrote(inside: str, tmp_path: Path) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    path = save({"module": vit()}, tmp_path / inside / "mp_rank_00_model_states.pt")
    (tmp_path / inside / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
    (tmp_path / "latest").write_text("global_step10")
    raw = rawfile.read(locate.locate(tmp_path))
    assert (raw.path, set(raw.tree)) == (path, {"module"})


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = hub_folder(tmp_path)

    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    refused(root, "Permission denied", "right to read")
