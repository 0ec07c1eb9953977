"""Opening weight files: damaged, hostile and odd ones give one clear line; nothing in them is executed."""

from __future__ import annotations

import argparse
import gzip
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import FLAT, dino_full, msn_full, save, vit
from safetensors.torch import save_file

import evaltk
from evaltk.checkpoints import rawfile
from evaltk.errors import CheckpointError, EvaltkError


class Hostile:
    """Unpickled without care, writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.proof}",)


def refused(path: Path, *words: str) -> str:
    """The one line that loading answers with, holding all the words."""
    with pytest.raises(CheckpointError) as caught:
        evaltk.load_checkpoint(path, num_heads=3)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path)[:100] in line
    assert "weights_only" not in line, "torch's advice to load without the safety must not be passed on"
    for word in words:
        assert word in line, line
    return line


def test_what_is_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.pth", "no such file", "evaltk ls checkpoints")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "a folder holding nothing", "name one file inside it")
    (tmp_path / "folder" / "net.pth").write_bytes(b"x")
    (tmp_path / "folder" / "other.pth").write_bytes(b"x")
    refused(tmp_path / "folder", "a folder", "net.pth", "name one file inside it")
    refused(tmp_path / ("long" * 400), "name too long")
    refused(Path("/dev/null"), "no plain file")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(vit(), tmp_path / "net.pth")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(path, "Permission denied", "right to read")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("an empty file", "download it again")),
        (b"<!DOCTYPE html>\n<html><title>403 Forbidden</title>", ("a web page", "403 Forbidden")),
        (b"\xef\xbb\xbf \n<html>", ("a web page",)),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", ("Git LFS pointer", "git lfs pull")),
        (b"hello, this is text", ("a text file ('hello, this is text')",)),
        (b"\0", ("written by torch.save",)),
        (b"PK\x03\x04 but no archive", ("cut off",)),
        (gzip.compress(b"weights", mtime=0), ("a gzip archive", "unpack it")),
        (pickle.dumps({"a": np.zeros(3)}), ("a pickle of numpy arrays", "turn the arrays into tensors")),
    ],
)
def test_what_is_no_weight_file(content: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    refused(path, *words)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated(zipped: bool, tmp_path: Path) -> None:
    whole = save(vit(), tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped).read_bytes()
    path = tmp_path / "net.pth"
    for share in (0.02, 0.5, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, "cut off" if zipped else "a whole file", "download it again")


def test_truncated_safetensors(tmp_path: Path) -> None:
    save_file(vit(), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "net.safetensors"
    for end in (4, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(path, "a whole safetensors file", "download or save it again")
    path.write_bytes(save(vit(), tmp_path / "net.pth").read_bytes())
    refused(path, "a whole safetensors file")


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "protocol 2", "deep in a checkpoint"])
def test_hostile_pickles_are_never_executed(form: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "executed", tmp_path / "net.pth"
    bad = Hostile(proof)
    if form == "zip":
        save({"a": bad}, path)
    elif form == "legacy":
        save({"a": bad}, path, _use_new_zipfile_serialization=False)
    elif form == "deep in a checkpoint":
        save(dino_full(optimizer={"state": [{"hook": bad}]}), path)
    else:
        path.write_bytes(pickle.dumps(bad, protocol=2 if form == "protocol 2" else None))
    line = refused(path)
    assert "posix.system, which was not made" in line
    assert "attack" in line
    assert not proof.exists()
    torch.load(path, weights_only=False) if form == "zip" else None
    assert proof.exists() == (form == "zip"), "the file was not hostile"


@pytest.mark.parametrize("what", [torch.zeros(3), [torch.zeros(3)], 5, None])
def test_not_a_dict(what: object, tmp_path: Path) -> None:
    refused(save(what, tmp_path / "net.pth"), "a dict of tensors", type(what).__name__)


def test_no_tensors_at_all(tmp_path: Path) -> None:
    refused(save({}, tmp_path / "net.pth"), "0 tensors (none)")
    refused(save({"epoch": 3, "args": argparse.Namespace(a=1)}, tmp_path / "net.pth"), "entries 'epoch', 'args'")


@pytest.mark.parametrize("zipped", [True, False])
def test_namespace_and_numpy_numbers_of_optimizer_states_load(zipped: bool, tmp_path: Path) -> None:
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_)
    state = {"lr": [kind(1) for kind in kinds], "step": np.int64(7)}
    tree = dino_full(optimizer=state, args=argparse.Namespace(arch="ours", lr=np.float64(0.5)))
    path = save(tree, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    raw = rawfile.read(path)
    assert raw.tree["optimizer"] == {"lr": [1] * len(kinds), "step": 7}
    assert raw.tree["args"].lr == 0.5  # type: ignore[attr-defined]
    assert evaltk.load_checkpoint(path, num_heads=3).family == "dino"


def test_old_and_new_files_hold_the_same_net(tmp_path: Path) -> None:
    new = evaltk.load_checkpoint(save(vit(), tmp_path / "new.pth"), **FLAT)
    old = evaltk.load_checkpoint(save(vit(), tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False), **FLAT)
    save_file(vit(), tmp_path / "safe.pth")  # known by its first bytes, not by its name
    safe = evaltk.load_checkpoint(tmp_path / "safe.pth", **FLAT)
    assert new.digest == old.digest == safe.digest
    assert len({new.sha256, old.sha256, safe.sha256}) == 3
    assert (new.name, old.name) == ("new", "old")


def test_a_file_that_was_zipped_again_is_not_mapped(tmp_path: Path) -> None:
    """Mapping a compressed entry would take its bytes for the numbers, without an error."""
    path, again = save(vit(), tmp_path / "net.pth"), tmp_path / "again.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(again, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    wanted, got = (evaltk.load_checkpoint(p, **FLAT) for p in (path, again))
    assert got.digest == wanted.digest


def test_large_optimizer_states_stay_on_the_disk(tmp_path: Path) -> None:
    state = {i: {"exp_avg": torch.zeros(12_500_000)} for i in range(6)}  # 300 MB
    path = save(dino_full(optimizer={"state": state}), tmp_path / "net.pth")
    del state
    before = _anonymous_memory()
    checkpoint = evaltk.load_checkpoint(path, num_heads=3)
    grown = _anonymous_memory() - before
    assert path.stat().st_size > 300e6
    assert grown < 30e6, f"{grown / 1e6:.0f} MB of a 300 MB file were read into memory"
    assert checkpoint.dropped["optimizer"] == "optimizer state"


def _anonymous_memory() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("reads /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def test_a_tree_without_end(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"a": {}}
    tree["a"]["again"] = tree
    refused(save(tree, tmp_path / "net.pth"), "0 tensors")
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"d": deep}
    path = save({"a": deep}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="64 levels"):
        evaltk.load_checkpoint(path)


def test_shared_containers_are_walked_once(tmp_path: Path) -> None:
    lists: list[Any] = [torch.zeros(1)]
    for _ in range(40):  # 2^40 paths to one tensor
        lists = [lists, lists]
    refused(save({"a": lists}, tmp_path / "net.pth"), "1 tensors")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(24).to_sparse(), "sparse"),
        (torch.empty(24, device="meta"), "meta"),
    ],
)
def test_tensors_that_are_not_plain(tensor: torch.Tensor, words: str, tmp_path: Path) -> None:
    weights = vit() | {"norm.weight": tensor}
    with pytest.raises(CheckpointError, match="dense tensors") as caught:
        evaltk.load_checkpoint(save(weights, tmp_path / "net.pth"), num_heads=3)
    assert words in str(caught.value)
    assert "norm.weight" in str(caught.value)


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    line = refused(save({"\x1b[31mred\n": torch.zeros(1)}, tmp_path / "net.pth"))
    assert "\\x1b" in line
    assert "\x1b" not in line


def test_two_keys_that_are_one_once_prefixes_are_stripped(tmp_path: Path) -> None:
    path = save(vit() | {"module.norm.bias": torch.zeros(24)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"two that are both 'norm.bias'"):
        evaltk.load_checkpoint(path, num_heads=3)


def test_a_number_and_its_text_as_keys(tmp_path: Path) -> None:
    path = save(vit() | {1: torch.zeros(1), "1": torch.ones(1)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="a number and its text as keys"):
        evaltk.load_checkpoint(path, num_heads=3)


def test_prefixes_are_stripped_from_the_front_only() -> None:
    tree = {"module.module.backbone.a.module.b": torch.zeros(1)}
    assert list(rawfile.strip(tree, "module.", "backbone.")) == ["a.module.b"]


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_mutated_files_load_or_give_a_clear_error(form: str, tmp_path: Path) -> None:
    """Bytes changed, cut and put in at random: no other error than one that a user can mend."""
    path = tmp_path / "net.bin"
    if form == "safetensors":
        save_file(vit(), path)
    else:
        save(msn_full(), path, _use_new_zipfile_serialization=form == "zip")
    whole, draw = path.read_bytes(), random.Random(form)
    outcomes = set()
    for _ in range(120):
        data = bytearray(whole)
        if draw.random() < 0.3:
            del data[draw.randrange(len(data)) :]
        for _ in range(draw.choice([1, 2, 5])):
            at = draw.randrange(min(len(data), draw.choice([300, 3000, len(whole)])) or 1)
            data[at : at + draw.choice([0, 1, 1, 9])] = draw.randbytes(draw.choice([1, 1, 4]))
        mutant = tmp_path / "mutant.bin"
        mutant.unlink(missing_ok=True)  # the one before is still mapped
        mutant.write_bytes(data)
        try:
            evaltk.load_checkpoint(mutant, **FLAT)
            outcomes.add("loaded")
        except EvaltkError:
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}
