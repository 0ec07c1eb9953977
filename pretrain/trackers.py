"""TensorBoard and Weights & Biases beside the log, if asked for. Their failures never end a training."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from evaltk import files
from evaltk.errors import SettingsError
from evaltk.progress import log
from pretrain.recipe import Recipe

RUN_ID = "wandb-id.txt"  # which run a folder's is over there, so that it is continued


class Tracker(Protocol):
    """Where numbers go besides `log.jsonl`."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


def begin(kind: Literal["none", "tensorboard", "wandb"], out: Path, recipe: Recipe, step: int) -> Tracker | None:
    """The tracker asked for, without what it holds of steps from `step` on, where it can forget. None: none.

    Raises: SettingsError: it is not installed, or does not start.
    """
    if kind == "none":
        return None
    try:
        made: Tracker = _TensorBoard(out, step) if kind == "tensorboard" else _Wandb(out, recipe, step)
    except ImportError as error:
        do = f"pip install {kind}, or leave --log out"
        raise SettingsError(
            wanted=f"{kind}, which is not part of evaltk", got=str(error)[:80], where="--log", do=do
        ) from error
    except Exception as error:  # such as no network or no account
        got = (str(error).splitlines() or [type(error).__name__])[0][:120]
        do = "WANDB_MODE=offline, or leave --log out" if kind == "wandb" else "leave --log out"
        raise SettingsError(wanted=f"{kind} to start", got=got, where="--log", do=do) from error
    return _Careful(made, kind)


class _Careful:
    """Gives up on a tracker that fails, and says so once."""

    def __init__(self, tracker: Tracker, kind: str) -> None:
        self.tracker: Tracker | None = tracker
        self.kind = kind

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._do("write", step, values)

    def close(self) -> None:
        self._do("close")
        self.tracker = None

    def _do(self, what: str, *args: Any) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, what)(*args)
        except Exception as error:  # noqa: BLE001 - full disks, lost networks, whatever: the training matters more
            self.tracker = None
            told = (str(error).splitlines() or [type(error).__name__])[0][:120]
            log.warning("%s fails and is left out from here on; the training goes on: %s", self.kind, told)


class _TensorBoard:
    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, out: Path, recipe: Recipe, step: int) -> None:
        import wandb

        place = out / RUN_ID
        if step and place.exists():
            name = place.read_text(encoding="utf-8").strip()
        else:
            name = secrets.token_hex(4)
            files.write_text(place, f"{name}\n")
        self.run = wandb.init(
            project="evaltk",
            name=out.absolute().name,
            id=name,
            resume="allow",
            dir=str(out),
            config=dataclasses.asdict(recipe),
            settings=wandb.Settings(console="off", silent=True),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()
