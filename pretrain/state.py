"""What changes while training: both nets, optimizer, scaler, centres, position."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from evaltk import distributed
from evaltk.errors import EvaltkError
from pretrain.centering import RowSums
from pretrain.nets import Network


class Diverged(EvaltkError):
    """A loss, a gradient or a weight is not finite: the run stops, the last good checkpoint stays."""


def diverged(got: str, where: object, last: Path) -> Diverged:
    """The error; `last`: the newest checkpoint, named where there is one."""
    kept = f"; the last good checkpoint is {last}" if last.exists() else ""
    do = f"lower optim.lr or lengthen optim.warmup_epochs{kept}"
    return Diverged(wanted="a training that stays finite", got=got, where=where, do=do)


S = TypeVar("S", bound=Any)  # a method's Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a run is: epochs completed, steps completed in the current one, steps completed in all."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


@dataclass(slots=True, kw_only=True)
class State(Generic[S]):
    """What changes while training, with the settings and the seed that a method's loss needs.

    Attributes:
        student: `network`, or DDP around it. centers: [K] each. sums: per centre, the teacher's scores summed over the
            micro-batches of the current step so far.
    """

    settings: S
    seed: int
    student: nn.Module
    network: Network
    teacher: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    centers: dict[str, Tensor]
    position: Position = field(default_factory=Position)
    sums: dict[str, RowSums] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where both nets are."""
        return next(self.network.parameters()).device


def distribute(network: Network) -> nn.Module:
    """The network as it is called for a gradient: inside DDP where there are several processes."""
    # Buffers are batch statistics, which the processes share already.
    return DistributedDataParallel(network, broadcast_buffers=False) if distributed.active() else network
