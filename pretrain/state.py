"""What changes while training: both nets, optimizer, scaler, centres, position."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from evaltk import distributed
from evaltk.errors import EvaltkError
from pretrain.centering import RowSums
from pretrain.incidents import Incidents
from pretrain.nets import Network


class Diverged(EvaltkError):
    """A loss, a gradient or a weight is not finite: the run stops, the last good checkpoint stays."""


class Collapsed(EvaltkError):
    """The teacher gives every image the same answer: the run stops, if asked to."""


def diverged(got: str, where: object, do: str, kept: str) -> Diverged:
    """The error. Args: do: what helps. kept: the newest checkpoint in words, empty where there is none."""
    return Diverged(wanted="finite numbers", got=got, where=where, do=f"{do}{kept}")


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
            micro-batches of the current step so far. incidents: what the run has put up with.
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
    incidents: Incidents = field(default_factory=Incidents)

    @property
    def device(self) -> torch.device:
        """Where both nets are."""
        return next(self.network.parameters()).device


def distribute(network: Network, *, accumulate: int) -> nn.Module:
    """The network as it is called for a gradient: inside DDP where there are several processes.

    Args: accumulate: micro-batches a step. With one, every backward pass is alike, which spares DDP its bookkeeping;
        with several, torch (2.15) fails in the first step, whose first backward passes exchange nothing.
    """
    if not distributed.active():
        return network
    # Buffers are batch statistics, which the processes share already.
    return DistributedDataParallel(
        network, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=accumulate == 1
    )
