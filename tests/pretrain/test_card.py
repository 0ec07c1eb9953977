"""What a user can get wrong about GPUs: one line each, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_run
import torch

from evaltk import distributed, machine
from evaltk.errors import SettingsError
from pretrain import card
from pretrain.data import loader
from pretrain.methods import dino


def told(caught: pytest.ExceptionInfo[SettingsError]) -> str:
    text = str(caught.value)
    assert len(text) < 300 and "\n" not in text
    return text


def test_a_card_too_old_for_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(SettingsError) as caught:
        card.check_precision(torch.device("cuda"), "bf16")
    assert "V100" in told(caught) and "run.precision=fp16" in told(caught)
    card.check_precision(torch.device("cuda"), "fp16")
    card.check_precision(torch.device("cpu"), "bf16")


def full_beyond(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """From now on the loss of more images than `limit` is out of memory. Returns: how many images were tried."""
    real, tried = dino.Dino.loss, []

    def loss(self: dino.Dino, batch: loader.Batch, state: Any) -> Any:
        tried.append(len(batch.views[0]))
        if tried[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines")
        return real(self, batch, state)

    monkeypatch.setattr(dino.Dino, "loss", loss)
    return tried


@pytest.mark.parametrize(("limit", "parts", "says"), [(5, 3, "room for 4, as tried out"), (11, 2, "room for 6")])
def test_out_of_memory_names_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, parts: int, says: str
) -> None:
    photos = small_run.photos(tmp_path / "photos")
    tried = full_beyond(monkeypatch, limit)
    with pytest.raises(SettingsError) as caught:
        small_run.train(photos, tmp_path / "out", "optim.batch=12")
    assert says in told(caught) and f"run.accumulate={parts} " in told(caught) and len(tried) <= 5
    assert small_run.train(photos, tmp_path / "out", "optim.batch=12", f"run.accumulate={parts}") == 0


def test_out_of_memory_where_nothing_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_beyond(monkeypatch, 0)
    with pytest.raises(SettingsError, match="not even room for one") as caught:
        small_run.train(small_run.photos(tmp_path / "photos"), tmp_path / "out")
    assert "smaller net" in told(caught)


def test_out_of_memory_of_one_process_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = full_beyond(monkeypatch, 0)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)  # in the message; nothing is exchanged before the loss
    with pytest.raises(SettingsError) as caught:
        small_run.train(small_run.photos(tmp_path / "photos"), tmp_path / "out")
    assert "for 2 images" in told(caught) and "run.accumulate=2 " in told(caught) and tried == [2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_why_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SettingsError) as caught:
        machine.resolve_device("cuda")
    assert "CUDA_VISIBLE_DEVICES='' hides all GPUs" in told(caught)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    def old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")

    monkeypatch.setattr(torch.cuda, "init", old)
    with pytest.raises(SettingsError) as caught:
        machine.resolve_device("cuda:0")
    assert "driver on your system is too old" in told(caught)


def test_one_card_for_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    told_by_torchrun = {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }
    for name, value in told_by_torchrun.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SettingsError) as caught, distributed.process_group("cuda:0"):
        pass
    assert "--device cuda" in told(caught)


def test_mps_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine.resolve_device("mps") == "mps"
    with pytest.raises(SettingsError) as caught:
        machine.resolve_device("mps", mps=False)
    assert "float64" in told(caught)
