"""Numbers of MATLAB files are those that scipy reads; damaged files, some of which end scipy's process, are refused."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from evaltk import safe_matlab

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def written(path: Path, **how: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = itertools.cycle([(1, 7), (3, 1), (2, 5)])
    arrays = {f"a{dtype}": rng.integers(0, 100, next(shapes)).astype(dtype) for dtype in DTYPES}
    arrays["half"] = rng.normal(size=(2, 3))
    arrays["one"] = np.array([[5]], dtype=np.uint8)
    savemat(path, {**arrays, "text": "of no interest", "cells": np.array([1, "b"], dtype=object)}, **how)
    return arrays


@pytest.mark.parametrize("how", [{}, {"do_compression": True}, {"oned_as": "column"}])
def test_numbers_are_those_that_scipy_reads(how: dict, tmp_path: Path) -> None:
    arrays = written(tmp_path / "a.mat", **how)
    wanted = loadmat(tmp_path / "a.mat")
    found = safe_matlab.read(tmp_path / "a.mat", list(arrays))
    assert found.keys() == arrays.keys()
    for name, array in found.items():
        assert np.array_equal(array, wanted[name]) and array.dtype == wanted[name].dtype, name


def test_whole_numbers_of_a_double_in_single_bytes(tmp_path: Path) -> None:
    """As MATLAB itself stores the labels of Flowers-102."""
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    body = bytes.fromhex("0600000008000000 0600000000000000 0500000008000000 0100000003000000 0100000006000000")
    body += b"labels\0\0" + bytes.fromhex("02000300 4d4e0100")  # three bytes in the tag itself
    (tmp_path / "a.mat").write_bytes(head + (14).to_bytes(4, "little") + len(body).to_bytes(4, "little") + body)
    found = safe_matlab.read(tmp_path / "a.mat", ["labels"])["labels"]
    assert found.tolist() == [[77, 78, 1]] == loadmat(tmp_path / "a.mat")["labels"].tolist() and found.dtype == "f8"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": "a"}, "text is no matrix of real numbers"),
        ({"text": np.array([1 + 2j])}, "text is no matrix of real numbers"),
        ({"other": np.arange(3)}, "no text"),
    ],
)
def test_what_is_no_matrix_of_real_numbers_is_refused(change: dict, said: str, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", change)
    with pytest.raises(ValueError, match=said):
        safe_matlab.read(tmp_path / "a.mat", ["text"])


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    """Every mutant: an error of ours, or arrays of the shapes that it states."""
    rng, outcomes = random.Random(0), set()
    path = tmp_path / "a.mat"
    for compressed in (False, True):
        written(path, do_compression=compressed)
        sound = path.read_bytes()
        for _ in range(300):
            data = bytearray(sound[: rng.choice([len(sound), rng.randrange(len(sound))])])
            for _ in range(rng.randint(0, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256) if data else 0
            path.write_bytes(bytes(data))
            try:
                outcomes.add(safe_matlab.read(path, ["au1", "half"])["half"].shape)
            except ValueError:
                outcomes.add("refused")
    assert {"refused", (2, 3)} <= outcomes
