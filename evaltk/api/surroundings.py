"""What surrounds a call from Python: the caller's process goes on as before, and errors name Python's arguments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from evaltk import distributed, seeding
from evaltk.errors import SettingsError
from evaltk.models.function import OURS


@contextmanager
def undisturbed() -> Iterator[Path]:
    """Random streams, gradient mode and other processes are left alone; yields a folder that is removed at the end."""
    with (
        seeding.preserved(),
        distributed.alone(),
        tempfile.TemporaryDirectory(prefix="evaltk-", ignore_cleanup_errors=True) as folder,
    ):
        yield Path(folder)


@contextmanager
def settled() -> Iterator[None]:
    """Numbers do not depend on the caller's autocast, gradient mode, or defaults for new tensors."""
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    with ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad(), OURS.hold()):
            stack.enter_context(context)
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def in_python() -> Iterator[None]:
    """Errors about a flag say what it is called in Python."""
    try:
        yield
    except SettingsError as error:
        flag = error.where.partition(",")[0]
        if not flag.startswith("--") or "in Python" in error.do:
            raise
        name, _, setting = flag.removeprefix("--").replace("-", "_").partition(".")
        called = f"settings={{{name!r}: {{{setting!r}: ...}}}}" if setting else f"{name}="
        do = f"{error.do}; in Python: {called}"
        raise SettingsError(wanted=error.wanted, got=error.got, where=error.where, do=do) from error
