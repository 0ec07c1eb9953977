"""What evaltk.evaluate returns, and the data that it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torchvision
from evaluate_inputs import LOOKS, Build, Net, measured

import evaltk
from evaltk import cli, results
from evaltk.errors import EvaltkError, SettingsError


def test_results_print_and_are_written_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(Net(), name="my <net>", out=tmp_path / "one")
    (path,) = found.save(tmp_path / "two")
    ((first, result),) = results.find(tmp_path / "one")
    assert first.relative_to(tmp_path / "one") == path.relative_to(tmp_path / "two")
    assert result == results.read(path) == found[0] == next(iter(found)) and len(found) == 1
    beside = [results.read_predictions(p) for p in (first, path)]
    assert beside[0].keys() == beside[1].keys() and all(np.array_equal(beside[0][k], beside[1][k]) for k in beside[0])
    assert cli.main(["table", "--runs", str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.rstrip("\n") == str(found) == repr(found)
    table = found.table()
    assert list(table.columns) == [
        "checkpoint", "protocol", "dataset", "split", "metric", "at", "value", "low", "high", "n",
    ]  # fmt: skip
    assert len(table) == len(found[0].scores) and table["at"][0] == "k 1, temperature 0.07"
    page = found._repr_html_()
    assert "my &lt;net&gt;" in page and "<net>" not in page and "smoke test" in page and page.count("<table") == 1
    with pytest.raises(SettingsError, match="one score top1; got at"):
        found.value("knn", "top1")
    with pytest.raises(SettingsError, match="metrics: top1, top5"):
        found.value("knn", "top2")
    with pytest.raises(SettingsError, match="a protocol of these results"):
        found["linear"]


def test_torch_datasets_are_data(image_tree: Build) -> None:
    root = image_tree({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 3})
    train, test = (torchvision.datasets.ImageFolder(str(root / split)) for split in ("train", "test"))
    two = evaltk.evaluate(Net(), (train, test), ("knn",), transform=LOOKS, settings={"knn": {"k": 3}}, data_name="mine")
    folder = evaltk.evaluate(Net(), str(root), ("knn",), transform=LOOKS, settings={"knn": {"k": 3}})
    assert [s.value for s in two["knn"].scores] == [s.value for s in folder["knn"].scores]
    assert two["knn"].data.name == "mine" and folder["knn"].data.name == "data"
    one = evaltk.evaluate(Net(), train, ("knn",), transform=LOOKS, settings={"knn": {"k": 3}}, split=0.5)
    assert one["knn"].data.sizes == {"train": 6, "test": 6}
    with pytest.raises(SettingsError, match=r"pass \(train, test\), or split=0\.2"):
        evaltk.evaluate(Net(), train, ("knn",), transform=LOOKS)
    with pytest.raises(EvaltkError, match="got int"):
        evaltk.evaluate(Net(), 5, ("knn",), transform=LOOKS)
