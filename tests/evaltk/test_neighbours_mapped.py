"""Neighbours of banks in mapped files and of other types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from integer_vectors import integers

from evaltk.errors import DataError
from evaltk.neighbours.blocks import rows
from evaltk.neighbours.exact import search


@pytest.fixture
def stored(tmp_path: Path) -> np.ndarray:
    """[90, 6], rising, in an .npy file; the parent of every view below."""
    x = np.arange(540, dtype=np.float32).reshape(90, 6) % 37 - 11
    np.save(tmp_path / "bank.npy", x)
    return x


def views(x: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "whole": x,
        "from row 5": x[5:],
        "from row 5, twice": x[2:][3:],
        "to row 40": x[:40],
        "every second row": x[::2],
        "backwards": x[::-1],
        "columns": x[:, 1:4],
        "one column less": x[:, :-1],
        "another shape": x.reshape(180, 3),
        "transposed": x.T,
        "rows by number": x[[7, 3, 80]],
        "a view of all": x[:],
        "as an array": np.asarray(x),
        "as an array from row 9": np.asarray(x)[9:],
    }


@pytest.mark.parametrize("name", list(views(np.zeros((90, 6)))))
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_mapped_file_and_its_views(stored: np.ndarray, tmp_path: Path, name: str, mode: str) -> None:
    mapped = views(np.load(tmp_path / "bank.npy", mmap_mode=mode))[name]
    expected = views(stored)[name]
    for start, stop in ((0, len(expected)), (1, 3), (len(expected) - 1, len(expected))):
        assert np.array_equal(rows(mapped, start, stop).numpy(), expected[start:stop])
    queries = torch.from_numpy(expected[:3].copy())
    check_s, check_i = search(queries, torch.from_numpy(expected.copy()), 2, metric="dot")
    s, i = search(queries, mapped, 2, metric="dot", bank_block=16)
    assert torch.equal(s, check_s) and torch.equal(i, check_i)


def test_mapped_files_with_an_offset_and_of_other_kinds(tmp_path: Path, stored: np.ndarray) -> None:
    (tmp_path / "raw").write_bytes(b"head" * 5 + stored.tobytes())
    mapped = np.memmap(tmp_path / "raw", dtype=np.float32, mode="r", offset=20, shape=(90, 6))
    assert np.array_equal(rows(mapped, 10, 20).numpy(), stored[10:20])
    assert np.array_equal(rows(mapped[4:], 10, 20).numpy(), stored[14:24])
    for kind in (">f4", "<f8", "<f2", "<i4", "u1"):
        x = np.abs(stored).astype(kind)
        np.save(tmp_path / "other.npy", x)
        for found in (x, np.load(tmp_path / "other.npy", mmap_mode="r")):
            assert np.array_equal(rows(found, 3, 9).numpy(), x[3:9].astype(np.float32)), kind
    np.save(tmp_path / "columns.npy", np.asfortranarray(stored))
    assert np.array_equal(rows(np.load(tmp_path / "columns.npy", mmap_mode="r"), 3, 9).numpy(), stored[3:9])


def test_changes_that_are_not_in_the_file_are_seen(stored: np.ndarray, tmp_path: Path) -> None:
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="c")  # copy on write
    mapped[4] = 100
    assert (rows(mapped, 4, 5) == 100).all()


def test_a_file_that_is_gone_or_shorter(stored: np.ndarray, tmp_path: Path) -> None:
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    (tmp_path / "bank.npy").unlink()
    assert np.array_equal(rows(mapped, 0, 90).numpy(), stored)  # the mapping still holds it
    (tmp_path / "bank.npy").write_bytes(b"x" * 400)
    with pytest.raises(DataError, match="a truncated file"):
        rows(mapped, 0, 90)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16, torch.int64])
def test_other_number_types(dtype: torch.dtype) -> None:
    queries, bank = integers(5, 8, 8), integers(60, 8, 9)
    expected = search(queries, bank, 7, metric="dot")
    for found in (
        search(queries.to(dtype), bank.to(dtype), 7, metric="dot"),
        search(queries, bank.to(dtype), 7, metric="dot"),
    ):
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    if dtype != torch.bfloat16:
        found = search(queries.to(dtype).numpy(), bank.to(dtype).numpy(), 7, metric="dot")
        assert torch.equal(found[1], expected[1])
