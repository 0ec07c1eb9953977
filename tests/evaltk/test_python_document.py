"""What docs/python.md shows runs as it stands, and its results are right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaltk import cli, results

DOCUMENT = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_document_runs(
    image_tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = image_tree({"train/cat": 6, "train/dog": 6, "val/cat": 3, "val/dog": 3}, name="photos")
    monkeypatch.chdir(photos.parent)
    text = DOCUMENT.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            exec(compile(block, str(DOCUMENT), "exec"), names)
    assert "dict with last_hidden_state: [4, 4, 16]" in capsys.readouterr().out
    assert [s.value for s in names["pair"]["knn"].scores] != [] and len(names["log"]) == 2
    assert names["one"]["knn"].data.sizes == {"train": 6, "test": 6}
    ((path, result),) = results.find(Path("runs"))
    assert [path] == names["paths"] and result == names["results"]["knn"]
    assert names["plane"].shape == (12, 2) and set(names["names"]) == {"cat", "dog"}
    assert np.array_equal(names["features"].y, [0] * 6 + [1] * 6)

    command = re.search(r"^ {4}evaltk (extract pixels:8 .*)$", text, re.MULTILINE)
    assert command and cli.main([*command[1].split(), "--cache", "cache"]) == 0
    assert Path("pixels.parquet").stat().st_size
