"""Files in the layouts that people have give the features of the code that made them, or an error that names a tensor.

How the files were made: tests/golden/families/README.md. What each array is stands there too.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_files import FILES, GOLDEN, close, file_of, path_of

import evaltk
from evaltk.checkpoints import families, locate, rawfile
from evaltk.checkpoints.load import of_file
from evaltk.checkpoints.rawfile import RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import inspect
from evaltk.errors import CheckpointError, EvaltkError
from evaltk.types import Tokens

SIZES = ("native", "other", "rect")
# What of a file's arrays is read off tokens without the final norm: transformers' last_hidden_state of these models.
UNNORMED = ("hf_beit_ft", "hf_beit_pt", "hf_clip_full", "hf_clip_vision")
# Where the class feature of the family is another than the array of that name.
OTHERS = {"hf_data2vec_vision": ("cls",), "beit2_pt": ("pooled",), "beit_pt": ("pooled",), "beit_pt_abs": ("pooled",)}
FIXED = {"mocov3_deit_format", "mocov3_vit", "mocov3_conv"}  # sizes that their code has no rule for


def tokens(name: str, folder: Path, **flags: Any) -> Iterator[tuple[str, np.lib.npyio.NpzFile, Tokens, Tokens]]:
    """(size, the file's arrays, tokens, tokens before the norm) for each size the file has."""
    arrays = np.load(GOLDEN / f"{name}_outputs.npz")
    backbone = evaltk.build_backbone(evaltk.load_checkpoint(path_of(name, folder), **FILES[name][1] | flags))
    for size in SIZES:
        if f"x_{size}" in arrays:
            x = torch.from_numpy(arrays[f"x_{size}"])
            yield size, arrays, backbone.tokens(x)[0], backbone.tokens(x, norm=False)[0]


@pytest.mark.parametrize("name", FILES)
def test_features_are_the_originals(name: str, tmp_path: Path) -> None:
    """At every size the file gives: class feature, patches, and both before the norm."""
    for size, arrays, normed, raw in tokens(name, tmp_path / "folder"):
        plain = raw if name in UNNORMED else normed
        given = {
            "cls": plain.cls,
            "patches": plain.patches,
            "pooled": normed.cls,
            "pooler": normed.cls,
            "normed_cls": normed.cls,
            "normed_patches": normed.patches,
            "prenorm_cls": raw.cls,
            "prenorm_patches": raw.patches,
        }
        compared = [key for key in given if f"{key}_{size}" in arrays and key not in OTHERS.get(name, ())]
        assert compared
        for key in compared:
            assert close(given[key], arrays[f"{key}_{size}"]), f"{key}_{size}"


def test_what_is_pooled_beside_a_class_token(tmp_path: Path) -> None:
    """Pre-trained BEiT's mean of normed patches, and data2vec's class token before any norm."""
    for name in ("beit_pt", "beit2_pt", "beit_pt_abs"):
        for _, arrays, normed, _ in tokens(name, tmp_path / name):
            assert close(normed.patches.mean(dim=1), arrays["pooled_native"])
    for _, arrays, _, raw in tokens("hf_data2vec_vision", tmp_path / "hf"):
        assert close(raw.cls, arrays["cls_native"])


def test_the_other_branch(tmp_path: Path) -> None:
    """I-JEPA's encoder and timm's moving average are read on demand; the digest tells them apart."""
    for _, arrays, found, _ in tokens("ijepa", tmp_path, branch="encoder"):
        assert close(found.patches, arrays["encoder_patches_native"])
        assert close(found.cls, arrays["encoder_pooled_native"])
    for _, arrays, found, _ in tokens("timm_train", tmp_path, branch="state_dict_ema"):
        assert close(found.cls, arrays["ema_cls_native"])
    copies = {"mocov3_vit": "momentum_encoder", "mocov2_resnet50": "encoder_k", "moby_swin": "encoder_k"}
    for name, other in copies.items():
        one = evaltk.load_checkpoint(file_of(name), **FILES[name][1])
        two = evaltk.load_checkpoint(file_of(name), **FILES[name][1] | {"branch": other})
        assert one.digest != two.digest
        assert two.branch == other
    with pytest.raises(CheckpointError, match="--branch base_encoder or --branch momentum_encoder"):
        evaltk.load_checkpoint(file_of("mocov3_vit"), num_heads=4, branch="teacher")


@pytest.mark.parametrize("name", FILES)
def test_one_family_claims_it(name: str, tmp_path: Path) -> None:
    raw = rawfile.read(locate.locate(path_of(name, tmp_path / "folder")))
    claims = [n for n, family in families.load().items() if family.claims is not None and family.claims(raw)]
    assert claims == [FILES[name][0]]


@pytest.mark.parametrize("name", FILES)
def test_inspect_fits_on_a_screen(name: str, tmp_path: Path) -> None:
    checkpoint = evaltk.load_checkpoint(path_of(name, tmp_path / "folder"), **FILES[name][1])
    lines = inspect.text(inspect.describe(checkpoint)).splitlines()
    assert len(lines) < 25
    heads = [line.split("  ")[0] for line in lines]
    for wanted in ("family", "container", "class feature", "positions", "images"):
        assert wanted in heads


def test_sizes_without_a_rule_are_asked_for() -> None:
    checkpoint = evaltk.load_checkpoint(file_of("mocov3_vit"), num_heads=4)
    x = torch.zeros(1, 3, 48, 48)
    with pytest.raises(EvaltkError, match="--position dino or --position size"):
        evaltk.build_backbone(checkpoint).tokens(x)
    assert evaltk.build_backbone(checkpoint, position="size").tokens(x)[0].grid == (6, 6)
    beit = evaltk.load_checkpoint(file_of("beit_pt"))
    with pytest.raises(EvaltkError, match="--position bilinear"):
        evaltk.build_backbone(beit).tokens(torch.zeros(1, 3, 24, 24))


def test_swin_takes_whole_windows_alone(tmp_path: Path) -> None:
    """An odd grid before a merging of patches is padded differently by EsViT and timm."""
    backbone = evaltk.build_backbone(evaltk.load_checkpoint(file_of("esvit_swin")))
    for side in (30, 34, 12):
        with pytest.raises(EvaltkError, match="multiples of 4 px and at least 16"):
            backbone.tokens(torch.zeros(1, 3, side, 32))


NO_MARK = {("dinov2_reg_pretrain", "register_tokens"), ("dinov2_swiglu_reg_pretrain", "register_tokens")}


def leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The way to every tensor of dicts in dicts."""
    found: list[tuple[str, ...]] = []
    for key, value in tree.items():
        if isinstance(value, torch.Tensor):
            found.append((*path, key))
        elif isinstance(value, Mapping):
            found += leaves(value, (*path, key))
    return found


def changed(raw: RawFile, way: tuple[str, ...], how: str) -> RawFile | None:
    """The file with one tensor missing, doubled under another name, transposed or wider; None: no such change."""
    tree: dict[str, Any] = {**raw.tree}
    node = tree
    for step in way[:-1]:
        node[step] = {**node[step]}
        node = node[step]
    tensor = node[way[-1]]
    if how == "missing":
        del node[way[-1]]
    elif how == "extra":
        node[f"{way[-1]}_more"] = tensor
    elif how == "transposed":
        if tensor.ndim < 2 or tensor.shape[0] == tensor.shape[1]:
            return None
        node[way[-1]] = tensor.transpose(0, 1)
    else:
        if tensor.ndim == 0:
            return None
        node[way[-1]] = torch.cat([tensor, tensor[:1]])
    return dataclasses.replace(raw, tree=tree)


def mutate(name: str, folder: Path, number: int) -> None:
    """`number` random changes of a file: each is an error that names the tensor, or changes no feature."""
    file = locate.locate(path_of(name, folder))
    raw, known = rawfile.read(file), families.load()
    options = ReadOptions(**FILES[name][1])
    digest = of_file(raw, file, options, known).digest
    draw = random.Random(name)
    ways = leaves(raw.tree)
    for _ in range(number):
        way, how = draw.choice(ways), draw.choice(("missing", "extra", "transposed", "wider"))
        other = changed(raw, way, how)
        if other is None or (how == "missing" and (name, way[-1]) in NO_MARK):
            continue
        try:
            found = of_file(other, file, options, known)
        except CheckpointError as error:
            asked = "a file that does not say" in str(error)  # what was told by a tensor that is missing
            told = f"{way[-1].rpartition('.')[2]}_more" if how == "extra" else way[-1]
            assert asked or named(told, str(error)), f"{how} {'.'.join(way)}: {error}"
        else:
            assert found.digest == digest, f"{how} {'.'.join(way)}"


def named(key: str, message: str) -> bool:
    """Whether a message names a tensor, by the end of its name in the file."""
    end = key.rpartition(".")[2]
    if ".".join(key.split(".")[-2:]) in message or (end.partition("_")[2] and end in message):
        return True
    return "the whole projection head" in message and ("head" in key or "center" in key)


@pytest.mark.parametrize("name", FILES)
def test_changed_files_are_refused(name: str, tmp_path: Path) -> None:
    mutate(name, tmp_path / "folder", 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_many_changed_files_are_refused(name: str, tmp_path: Path) -> None:
    mutate(name, tmp_path / "folder", 80)


def test_a_config_that_contradicts_the_tensors(tmp_path: Path) -> None:
    folder = path_of("hf_dinov2", tmp_path / "folder")
    text = (folder / "config.json").read_text()
    for was, other, words in (
        ('"hidden_size": 24', '"hidden_size": 48', "embed_dim 48 (the tensors: 24)"),
        ('"num_hidden_layers": 2', '"num_hidden_layers": 3', "depth 3"),
        ('"patch_size": 4', '"patch_size": 8', "patch_size 8"),
        ('"image_size": 16', '"image_size": 32', "img_size 32"),
        ('"num_attention_heads": 3', '"num_attention_heads": 5', "a number of heads that divides"),
        ('"hidden_act": "gelu"', '"hidden_act": "mish"', "hidden_act"),
        ('"layer_norm_eps": 1e-06', '"layer_norm_eps": 2', "layer_norm_eps"),
        ('"model_type": "dinov2"', '"model_type": "convnext"', "model_type 'convnext'"),
    ):
        assert was in text
        (folder / "config.json").write_text(text.replace(was, other))
        with pytest.raises(CheckpointError) as caught:
            evaltk.load_checkpoint(folder)
        assert words in str(caught.value)
    (folder / "config.json").write_text(text)
    assert evaltk.load_checkpoint(folder, norm_eps=1e-3).arch.norm_eps == 1e-3  # a flag wins over a configuration


def test_copies_of_which_none_is_customary(tmp_path: Path) -> None:
    """Two nets under names of the user's own: both are named and asked for."""
    tree = copy.copy(torch.load(file_of("mae_pretrain"), weights_only=True))["model"]
    both = {f"left.{k}": t for k, t in tree.items()} | {f"right.{k}": t for k, t in tree.items()}
    torch.save(both, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match="--branch left or --branch right"):
        evaltk.load_checkpoint(tmp_path / "two.pth", **FILES["solo_vit"][1])
    assert evaltk.load_checkpoint(tmp_path / "two.pth", **FILES["solo_vit"][1], branch="left").branch == "left"


def prefixed(prefix: str, tree: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in tree.items()}


WRAPPED: dict[str, Any] = {
    "bare": lambda net: net,
    "DistributedDataParallel": lambda net: prefixed("module.", net),
    "torch.compile": lambda net: prefixed("_orig_mod.", net),
    "both": lambda net: prefixed("_orig_mod.module.", net),
    "activation checkpointing in FSDP": lambda net: prefixed(
        "_fsdp_wrapped_module.",
        {key.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): value for key, value in net.items()},
    ),
    "compiled inside a module": lambda net: {"state_dict": prefixed("model._orig_mod.", net)},
    "an entry of one's own": lambda net: {"net": net, "epoch": 3},
    "DeepSpeed": lambda net: {"module": net, "dp_world_size": 4},
    "DeepSpeed inside": lambda net: {"model": {"module": net}},
    "optimizer beside": lambda net: {
        "model_state_dict": net,
        "optimizer_state_dict": {"state": {0: {"m": net["norm.bias"]}}},
    },
    "Lightning": lambda net: {
        "pytorch-lightning_version": "2.1.0",
        "state_dict": prefixed("net.encoder.", net) | {"loss.weights": torch.ones(3)},
    },
    "OpenCLIP with a tower of timm": lambda net: (
        prefixed("visual.trunk.", net)
        | {"visual.head.proj.weight": torch.ones(3, 24), "text.token_embedding.weight": torch.ones(3, 4)}
    ),
    "BYOL": lambda net: prefixed("online_network.", net) | prefixed("target_network.", net),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_same_net_in_other_containers(name: str, tmp_path: Path) -> None:
    net = torch.load(file_of("mae_pretrain"), weights_only=True)["model"]
    torch.save(WRAPPED[name](net), tmp_path / "net.pth")
    wanted = evaltk.load_checkpoint(file_of("mae_pretrain"), num_heads=3).digest
    assert evaltk.load_checkpoint(tmp_path / "net.pth", **FILES["solo_vit"][1]).digest == wanted
