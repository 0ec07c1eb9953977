"""The stand-in accelerator as a fixture, and commands that take it for `--device`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import standin
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@pytest.fixture(scope="session")
def registered() -> Any:
    if not standin.THERE:
        pytest.skip(f"torch {torch.__version__} has no devices made in Python")
    return standin.register()


@pytest.fixture
def on(registered: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """`with on("cpu")`, `with on("standin") as device`: commands know the device, attention is computed alike."""
    from evaltk import machine
    from evaltk.api import subjects
    from evaltk.running import benching

    real = machine.resolve_device

    def resolve(device: str, **rest: Any) -> str:
        return device if device == standin.NAME else real(device, **rest)

    for module in (machine, benching, subjects):
        monkeypatch.setattr(module, "resolve_device", resolve)
    # Decorators took this before the device was there; its tensors cannot be inference tensors.
    monkeypatch.setattr(torch._C, "_InferenceMode", lambda mode: torch.no_grad() if mode else torch.enable_grad())

    @contextlib.contextmanager
    def at(device: str) -> Iterator[standin.Standin | None]:
        with sdpa_kernel(SDPBackend.MATH):
            if device == "cpu":
                yield None
            else:
                with standin.present() as mode:
                    yield mode

    return at
