"""Checksums: every flipped bit and every cut is noticed; files without one are read as before."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from evaltk import checksums


def test_blocks_are_those_of_zlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BLOCK", 10)
    data = bytes(range(25))
    (tmp_path / "x").write_bytes(data)
    wanted = [25, *(f"{zlib.crc32(part):08x}" for part in (data[:10], data[10:20], data[20:]))]
    assert checksums.of_file(tmp_path / "x") == checksums.of_bytes(data) == wanted
    assert checksums.of_bytes(b"") == [0]


def test_every_bit_of_a_folder_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"some bytes")
    (tmp_path / "b").write_bytes(b"")
    checksums.check_folder(tmp_path)  # no list: of a time before checksums
    checksums.list_folder(tmp_path)
    checksums.check_folder(tmp_path)
    assert (tmp_path / checksums.LISTED).stat().st_size == checksums.list_bytes({"a": 10, "b": 0})
    for name in ("a", checksums.LISTED):
        whole = (tmp_path / name).read_bytes()
        for bit in range(8 * len(whole)):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            (tmp_path / name).write_bytes(data)
            with pytest.raises((ValueError, OSError)):
                checksums.check_folder(tmp_path)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "b").unlink()
    with pytest.raises(FileNotFoundError):
        checksums.check_folder(tmp_path)


def test_numbers_of_zip_containers(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(500.0))
    torch.save({"x": torch.arange(500.0)}, tmp_path / "x.pt")
    for path in (tmp_path / "x.npz", tmp_path / "x.pt"):
        checksums.check_zip(path)
        whole = path.read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 1
        for content in (bytes(data), whole[:-30], b""):
            path.write_bytes(content)
            with pytest.raises(checksums.Damaged, match=path.name):
                checksums.check_zip(path)


def test_json_holds_its_own() -> None:
    tree = {"b": [1, 2.5, None], "a": {"é": (True,)}}
    text = checksums.dumps(tree)
    assert checksums.loads(text) == json.loads(json.dumps(tree))
    assert checksums.loads('{"a": 1}') == {"a": 1}
    for changed in (text.replace("2.5", "2.6"), text.replace("true", "1")):
        with pytest.raises(checksums.Damaged):
            checksums.loads(changed)
    with pytest.raises(checksums.Damaged):
        checksums.loads('{"a": 1}', required=True)
    with pytest.raises(checksums.Damaged):
        checksums.loads("[1]")
