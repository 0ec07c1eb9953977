"""Files with bytes changed, cut and put in: an error that a user can mend, or the same tensors; nothing else."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import GOLDEN, save
from safetensors.torch import save_file

from evaltk.checkpoints import locate, rawfile
from evaltk.errors import EvaltkError

CASES = 80
SCRIPT = GOLDEN / "families" / "clip_vit_torchscript_checkpoint.pt"


class CfgNode(dict):
    """An object beside the weights."""


def tree() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    weights = {f"blocks.{i}.{k}": torch.randn(3, 4, generator=draw) for i in range(3) for k in ("a", "b")}
    return {
        "model": weights | {"half": torch.ones(3).half()},
        "args": argparse.Namespace(lr=0.5, names=["a", "b"]),
        "config": CfgNode(a=1, b=CfgNode(c=2)),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-3}]},
    }


def mutated(whole: bytes, draw: random.Random, free: list[int] | None = None) -> bytes:
    """`whole` with a few bytes changed, put in or taken out; of those in `free` only, if given."""
    data = bytearray(whole)
    if draw.random() < 0.1:
        return bytes(data[: draw.randrange(len(data))])
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.choice(free) if free else draw.randrange(len(data) or 1)
        form = draw.random()
        if form < 0.6 and data:
            data[at] ^= 1 << draw.randrange(8)
        elif form < 0.8 and data:
            data[at] = draw.randrange(256)
        elif free is None:
            data[at : at + draw.choice([0, 1, 9])] = draw.randbytes(draw.choice([0, 1, 4]))
    return bytes(data)


def numbers(path: Path) -> list[range]:
    """Where the numbers of tensors lie in an archive; they have no checksum that is looked at."""
    parts = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        for entry in archive.infolist():
            stream.seek(entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(int.from_bytes(stream.read(2), "little") for _ in range(2))
            if "/data/" in entry.filename:
                parts.append(range(start, start + entry.file_size))
    return parts


def compare(raw: rawfile.RawFile, wanted: dict[str, torch.Tensor]) -> None:
    got = dict(rawfile.walk(raw.tree))
    assert list(got) == list(wanted)
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("form", ["zip", "torchscript"])
def test_archives_read_the_same_or_not_at_all(form: str, tmp_path: Path) -> None:
    """All but the numbers has a checksum, or is written twice."""
    path = tmp_path / "whole.pt"
    shutil.copyfile(SCRIPT, path) if form == "torchscript" else save(tree(), path)
    whole, draw, kept = path.read_bytes(), random.Random(form), numbers(path)
    free = sorted(set(range(len(whole))).difference(*kept))
    wanted = {k: t.clone() for k, t in rawfile.walk(rawfile.read(path).tree)}
    outcomes = set()
    for _ in range(CASES):
        mutant = tmp_path / "mutant.pt"
        mutant.unlink(missing_ok=True)  # the one before is still mapped
        mutant.write_bytes(mutated(whole, draw, free))
        try:
            raw = rawfile.read(mutant)
        except EvaltkError:
            outcomes.add("refused")
            continue
        compare(raw, wanted)
        outcomes.add("read")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 4", "pickle alone", "safetensors"])
def test_no_other_error(form: str, tmp_path: Path) -> None:
    path, mutant = tmp_path / "whole.pt", tmp_path / "mutant.pt"
    if form == "safetensors":
        save_file(tree()["model"], path)
    else:
        given = {"pickle_protocol": 4} if form == "protocol 4" else {}
        save(tree(), path, _use_new_zipfile_serialization=form in ("zip", "pickle alone"), **given)
    whole, draw = path.read_bytes(), random.Random(form)
    if form == "pickle alone":
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        name = next(n for n in records if n.endswith("data.pkl"))
        whole = records[name]
    outcomes = set()
    for _ in range(2 * CASES):
        mutant.unlink(missing_ok=True)
        data = mutated(whole, draw)
        if form == "pickle alone":  # in an archive whose checksums are right
            with zipfile.ZipFile(mutant, "w") as archive:
                for key, record in records.items():
                    archive.writestr(key, data if key == name else record)
        else:
            mutant.write_bytes(data)
        try:
            rawfile.read(mutant)
            outcomes.add("read")
        except EvaltkError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_configs_and_indices(tmp_path: Path) -> None:
    weights, draw = tree()["model"], random.Random(0)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts: list[dict[str, Any]] = [dict(list(weights.items())[i::2]) for i in (0, 1)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, tmp_path / name)
    placed = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    texts = {
        "model.safetensors.index.json": json.dumps({"weight_map": placed}),
        "config.json": json.dumps({"model_type": "vit", "hidden_size": 4, "names": ["a", None, 1e-6]}),
    }  # fmt: skip
    outcomes = set()
    for number in range(CASES):
        for at, (name, text) in enumerate(texts.items()):
            (tmp_path / name).write_bytes(mutated(text.encode(), draw) if number % 2 == at else text.encode())
        try:
            raw = rawfile.read(locate.locate(tmp_path))
        except EvaltkError:
            outcomes.add("refused")
            continue
        got = dict(rawfile.walk(raw.tree))
        assert got.keys() == weights.keys() and all(torch.equal(got[k], weights[k]) for k in weights)
        outcomes.add("read")
    assert outcomes == {"read", "refused"}
