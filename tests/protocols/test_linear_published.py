"""Published linear heads, evaluated as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from linear_inputs import a_bench, score, small_digits

from evaltk.bench import Bench, Need
from evaltk.data.images import Dataset
from evaltk.errors import CheckpointError, SettingsError
from evaltk.types import Recipe
from protocols import linear


def test_a_published_head_is_evaluated_as_it_is(tmp_path: Path) -> None:
    digits, bench = small_digits(), a_bench(tmp_path)
    draw = torch.Generator().manual_seed(0)
    for recipe, name in ((Recipe(), "c.pth"), (Recipe(last=4), "d.pth")):
        x = torch.from_numpy(np.array(_extract(bench, digits, recipe)))
        weight, bias = torch.randn(10, x.shape[1], generator=draw), torch.randn(10, generator=draw)
        torch.save({"state_dict": {"module.linear.weight": weight, "module.linear.bias": bias}}, tmp_path / name)
        settings = linear.Settings(head=str(tmp_path / name))
        linear.prepare(bench, digits, settings)
        outcome = linear.run(bench, digits, settings)
        logits = x.double() @ weight.double().T + bias.double()
        order = logits.argsort(dim=1, descending=True)
        hits = order == torch.from_numpy(digits.test.labels)[:, None]
        assert score(outcome, "head_top1").value == float(hits[:, 0].double().mean())
        assert score(outcome, "head_top5").value == float(hits[:, :5].any(dim=1).double().mean())
        assert outcome.predictions["head"].tolist() == order[:, 0].tolist()
        assert score(outcome, "head_top1").at == {"head": name, "feature": recipe.text()}


def _extract(bench: Bench, digits: Dataset, recipe: Recipe) -> np.ndarray:
    bench.prepare(digits.test, (Need(recipe=recipe),))
    return bench.features(digits.test, Need(recipe=recipe)).x


def test_heads_of_another_net_or_data_set(tmp_path: Path) -> None:
    digits, bench = small_digits(), a_bench(tmp_path)
    for shape, says in (
        ((10, 48), r"32 \(cls/last1.*128 \(cls/last4.*got 48"),
        ((7, 32), "a head of 10 classes; got 7"),
    ):
        torch.save({"head.weight": torch.zeros(shape), "head.bias": torch.zeros(shape[0])}, tmp_path / "h.pth")
        with pytest.raises(SettingsError, match=says):  # before any image is read
            linear.prepare(bench, digits, linear.Settings(head=str(tmp_path / "h.pth")))
    assert not (tmp_path / "features").exists()
    with pytest.raises(CheckpointError, match=r"a weight file .* or a catalogue name; got no such file.*none\.pth"):
        linear.identity(linear.Settings(head=str(tmp_path / "none.pth")))
    assert linear.identity(linear.Settings()) == {}
