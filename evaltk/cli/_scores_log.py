"""Scores beside the training log, in TensorBoard or Weights & Biases, if asked for; their failures end nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Protocol

from evaltk.errors import SettingsError
from evaltk.progress import log
from evaltk.types import Result

OF_RUN = re.compile(r"(.+)/checkpoint(-epoch\d+|\.before)?")  # what results call a training's checkpoints


class _Writer(Protocol):
    def write(self, run: str, step: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class Tracker:
    """Sends the scores of results, by name of training and epoch; gives up at the first failure, and says so."""

    def __init__(self, writer: _Writer, kind: str) -> None:
        self.writer: _Writer | None = writer
        self.kind = kind

    def write(self, result: Result) -> None:
        """Send the scores of a result: one curve each, the epoch on its axis (0 where there is none)."""
        name, epoch = str(result.checkpoint.get("name")), result.checkpoint.get("epoch")
        told = OF_RUN.fullmatch(name)
        values = {}
        for score in result.scores:
            at = ",".join(f"{key}={value}" for key, value in score.at.items())
            values[f"{result.protocol}/{score.dataset}-{score.split}/{score.metric}" + (f"({at})" if at else "")] = (
                score.value
            )
        self._do("write", told[1] if told else name, epoch if isinstance(epoch, int) else 0, values)

    def close(self) -> None:
        """Send what is left."""
        self._do("close")
        self.writer = None

    def _do(self, what: str, *args: Any) -> None:
        if self.writer is None:
            return
        try:
            getattr(self.writer, what)(*args)
        except Exception as error:  # noqa: BLE001 - full disks, lost networks, whatever: the results matter more
            self.writer = None
            said = (str(error).splitlines() or [type(error).__name__])[0][:120]
            log.warning("%s fails and is left out from here on; the results are written: %s", self.kind, said)


def begin(kind: Literal["tensorboard", "wandb"] | None, out: Path) -> Tracker | None:
    """The tracker asked for; None: none. Raises: SettingsError: it is not installed."""
    if kind is None:
        return None
    try:
        writer: _Writer = _TensorBoard(out) if kind == "tensorboard" else _Wandb(out)
    except ImportError as error:
        do = f"pip install 'evaltk[{kind}]', or leave --log out"
        raise SettingsError(
            wanted=f"{kind}, which is an extra of evaltk", got=str(error)[:80], where="--log", do=do
        ) from error
    return Tracker(writer, kind)


class _TensorBoard:
    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.make, self.out = SummaryWriter, out
        self.writers: dict[str, Any] = {}

    def write(self, run: str, step: int, values: dict[str, float]) -> None:
        if run not in self.writers:
            folder = self.out / "tensorboard" / (re.sub(r"[^\w.-]+", "-", run).strip("-.") or "unnamed")
            self.writers[run] = self.make(str(folder))
        for name, value in values.items():
            self.writers[run].add_scalar(name, value, step)
        self.writers[run].flush()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class _Wandb:
    def __init__(self, out: Path) -> None:
        import wandb

        self.wandb, self.out, self.name = wandb, out, ""
        self.run: Any = None

    def write(self, run: str, step: int, values: dict[str, float]) -> None:
        if run != self.name:
            self.close()
            settings = self.wandb.Settings(console="off", silent=True)
            self.run = self.wandb.init(
                project="evaltk", name=run, job_type="eval", dir=str(self.out), settings=settings
            )
            self.run.define_metric("*", step_metric="epoch")
            self.name = run
        if self.run is not None:
            self.run.log({"epoch": step} | values)

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
            self.run, self.name = None, ""
