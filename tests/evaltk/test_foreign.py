"""Files that are something else than weights of a vision net are named for what they are."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import dino_full, msn_full, vit
from PIL import Image
from safetensors.torch import save_file

from evaltk.checkpoints import foreign, foreign_files, locate, rawfile
from evaltk.errors import CheckpointError


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return out.getvalue()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, **{"Transformer/encoderblock_0/LayerNorm_0/bias": np.zeros(3)})
    return out.getvalue()


def tarred(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def image(form: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, form)
    return out.getvalue()


def haiku() -> bytes:
    return pickle.dumps({"experiment_state": {"online_params": {"res_net50/~/conv": {"w": np.zeros(2)}}}})


BYTES: list[tuple[str, Callable[[], bytes], tuple[str, ...]]] = [
    ("page.pth", lambda: b"<!DOCTYPE html><title>Sign in</title>", ("a web page", "Sign in")),
    ("net.pth", lambda: b"version https://git-lfs.github.com/spec/v1\noid", ("Git LFS pointer", "git lfs pull")),
    ("net.onnx", lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xf0\x1f\n", ("an ONNX graph", "state_dict")),
    ("net.pb", lambda: b"\x08\x01\x12\x80\x01\n\x05\x12\x03", ("a graph of TensorFlow",)),
    ("net.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), ("HDF5", "from_tf=True")),
    ("model.ckpt-5.data-00000-of-00001", lambda: b"\x01\x02\x03\x04" * 20, ("TensorFlow checkpoint",)),
    ("renamed.ckpt", lambda: bytes(40) + foreign_files.TABLE_END, ("TensorFlow checkpoint",)),
    ("flax_model.msgpack", lambda: b"\x82\xa6params\x81\xa1a\x01", ("Flax", "from_flax=True")),
    ("renamed.bin", lambda: b"\xde\x00\x02\xd9\x28" + b"a" * 40 + b"\x01", ("Flax",)),
    ("net.npz", npz, ("numpy or JAX (.npz)", "copy the arrays by name")),
    ("net.npy", lambda: b"\x93NUMPY\x01\x00v\x00{", ("one array of numpy",)),
    ("net.gguf", lambda: b"GGUF\x03\x00\x00\x00" + bytes(20), ("GGUF", "unquantised")),
    ("net.pth.gz", lambda: gzip.compress(b"a" * 50), ("a gzip archive", "unpack it")),
    ("net.zst", lambda: b"\x28\xb5\x2f\xfd" + bytes(20), ("zstandard",)),
    ("net.png", lambda: image("PNG"), ("an image (PNG)", "--data")),
    ("net.jpg", lambda: image("JPEG"), ("an image (JPEG)",)),
    ("net.webp", lambda: image("WEBP"), ("an image (WebP)",)),
    ("net.tflite", lambda: b"\x1c\x00\x00\x00TFL3" + bytes(20), ("TensorFlow Lite",)),
    ("config.json", lambda: json.dumps({"a": 1}).encode(), ("a JSON file", "name its folder")),
    ("log.txt", lambda: b"epoch 1: 75.0\n", ("a text file ('epoch 1: 75.0 ')",)),
    ("saved.zip", lambda: zipped(m__saved_model_pb=b"x", m__saved_model=b"x") , ("an archive that holds",)),
    ("net.keras", lambda: zipped(**{"config.json": b"{}", "model.weights.h5": b"x"}), ("a Keras model",)),
    ("net.pt2", lambda: zipped(net__archive_format=b"pt2"), ("torch.export",)),
    ("nets.zip", lambda: zipped(**{"nets__a.pth": b"x"}), ("an archive that holds nets/a.pth", "unpack it")),
    ("nets.tar", lambda: tarred("nets/a.pth"), ("an archive that holds nets/a.pth", "unpack it")),
    ("old.pth", lambda: tarred("sys_info", "pickle", "storages", "tensors"), ("torch 0.1", "save its state_dict()")),
    ("empty.zip", lambda: zipped(a=b""), ("an archive that holds a",)),
    ("pretrain_res50x1.pkl", haiku, ("JAX or haiku", "conversions of BYOL's")),
    ("net.pkl", lambda: pickle.dumps({"model": {"w": np.zeros(2)}}), ("numpy arrays", "turn the arrays into tensors")),
    ("list.pkl", lambda: pickle.dumps([1, 2]), ("a pickle that torch.save did not write (a list)",)),
    ("old.pkl", lambda: pickle.dumps([1], protocol=0), ("a pickle of an old protocol",)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "words"), BYTES, ids=[name for name, *_ in BYTES])
def test_files_by_their_bytes(name: str, data: Callable[[], bytes], words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data())
    with pytest.raises(CheckpointError) as caught:
        rawfile.read(locate.locate(path))
    line = str(caught.value)
    for word in words:
        assert word in line, line


@pytest.mark.parametrize("length", [35615, 0x685A42, 0x4D4E0812, 0x81, 0x12_12_08])
def test_the_length_of_a_header_is_no_mark(length: int, tmp_path: Path) -> None:
    """A safetensors file may begin with any two bytes."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    foreign_files.refuse(tmp_path / "net.safetensors", (struct.pack("<Q", length) + header)[:512])
    if length < 1 << 20:
        header += b" " * (length - len(header))
        (tmp_path / "net.bin").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        assert set(rawfile.read(tmp_path / "net.bin").tree) == {"w"}


def of(*keys: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {key: torch.zeros(2, 2, dtype=dtype) for key in keys}


ADAPTER = "base_model.model.blocks.0.attn.qkv.lora_"
TREES: list[tuple[dict[str, Any], str]] = [
    (of(f"{ADAPTER}A.weight", f"{ADAPTER}B.weight"), "adapter weights only (LoRA)"),
    (of("unet_down_blocks_0.lora_down.weight", "unet_down_blocks_0.lora_up.weight"), "adapter weights only (LoRA)"),
    (of("layers.0.adapter_down.weight", "layers.0.adapter_up.weight"), "adapter weights only"),
    ({"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1}]}, "the state of an optimizer"),
    ({"optimizer": {"state": {0: of("exp_avg")}}, "epoch": 3}, "the state of an optimizer"),
    ({"optimizer_state_dict": {"zero_stage": 3, "fp32": [torch.zeros(2)]}}, "a shard of a DeepSpeed optimizer"),
    (of("model.layers.0.q.qweight", "model.layers.0.q.qzeros", "model.layers.0.q.scales"), "quantised weights"),
    (of("blocks.0.fc.weight", "blocks.0.fc.weight.absmax"), "quantised weights"),
    (of("blocks.0.fc.weight", "blocks.0.fc.SCB", dtype=torch.int8), "quantised weights"),
    (of("blocks.0.fc.weight", dtype=torch.uint8), "quantised weights"),
    (of("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"), "a text model"),
    (of("transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight"), "a text model"),
    (of("model.embed_tokens.weight", "model.layers.0.q.weight", "lm_head.weight"), "a text model"),
    (of("token_embd.weight", "blk.0.attn_q.weight"), "a text model"),
    (of("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.a"), "a diffusion model"),
    (of("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight", "time_embedding.linear_1.bias"), "a diffusion model"),
    (of("encoder.down.0.block.0.conv1.weight", "quant_conv.weight", "post_quant_conv.weight"), "an autoencoder"),
    (of("feature_extractor.conv_layers.0.conv.weight", "encoder.layers.0.fc.weight"), "an audio model"),
    (of("roi_heads.box_head.fc1.weight", "rpn.head.weight", "roi_heads.mask_head.weight"), "heads of a detection"),
    (of("decode_head.conv_seg.weight", "auxiliary_head.conv_seg.weight"), "heads of a detection or segmentation"),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "what"), TREES, ids=lambda v: v if isinstance(v, str) else "")
def test_trees_by_their_keys(tree: dict[str, Any], what: str) -> None:
    found = foreign.describe(tree)
    assert found is not None and found[0].startswith(what)
    assert found[1]


VISION = [
    vit(),
    dino_full(),
    msn_full(),
    {"model": vit(), "optimizer": {"state": {0: of("exp_avg")}}},
    of("visual.conv1.weight", "token_embedding.weight", "positional_embedding"),
    of("vision_model.embeddings.patch_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    of("linear.weight"),
    {},
    {"epoch": 3},
]


@pytest.mark.parametrize("tree", VISION, ids=range(len(VISION)))
def test_vision_nets_are_not_named_as_something_else(tree: dict[str, Any]) -> None:
    assert foreign.describe(tree) is None


def test_every_family_file_is_let_through(tmp_path: Path) -> None:
    for path in sorted((Path(__file__).parents[1] / "golden" / "families").glob("*_checkpoint.*")):
        assert foreign.describe(rawfile.read(path).tree) is None, path
    save_file(vit(), tmp_path / "net.safetensors")
    assert foreign.describe(rawfile.read(tmp_path / "net.safetensors").tree) is None


def test_a_tree_of_shared_lists_takes_no_time() -> None:
    lists: list[Any] = []
    for _ in range(40):
        lists = [lists] * 1000
    assert foreign.describe({"a": lists}) is None
