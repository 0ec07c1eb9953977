"""What a training method defines: nets, loss of a micro-batch, centres, file layout, settings and their rules.

Each file of `pretrain/methods` has one instance of a subclass, named METHOD. The defaults here are DINO's: student and
teacher with a head whose `last_layer` holds the prototypes, and a centre of the teacher's scores.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal

import torch
from torch import Tensor

from evaltk.types import Arch
from pretrain import centering, optim, schedules
from pretrain.centering import RowSums
from pretrain.data.loader import Batch
from pretrain.data.masks import Settings as MaskSettings
from pretrain.data.views import Views
from pretrain.nets import Network
from pretrain.optim import Optim
from pretrain.state import S, State

Rule = tuple[bool, str, object]  # (holds, what is wanted, the value there is)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A recipe's [method]: what all methods have. A method with settings of its own subclasses this.

    Attributes:
        name: a file of pretrain/methods. scoring: linear (g free), cosine (g = 1) or vmf (g free, log C_p added).
        centering: logit (Eq. 8) or probability (Eq. 9). num_prototypes: K. hidden, bottleneck: widths of the head.
        student_temp: tau_s. teacher_temp, teacher_temp_end: tau_t, raised over teacher_temp_warmup epochs.
    """

    name: str = "dino"
    scoring: Literal["linear", "cosine", "vmf"] = "linear"
    centering: Literal["logit", "probability"] = "logit"
    num_prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    student_temp: float = 0.1
    teacher_temp: float = 0.04
    teacher_temp_end: float = 0.07
    teacher_temp_warmup: int = 30
    center_momentum: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossOutput:
    """Loss of a micro-batch, and what the centres and the log need besides.

    Attributes:
        loss: scalar with a gradient. parts: detached scalars for the log, by the log's key.
        sums: per centre, the teacher's scores summed over this and the step's earlier micro-batches.
        teacher: detached teacher scores [n, K], uncentred. temperature: what they are still to be divided by.
    """

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Mapping[str, RowSums] = field(default_factory=dict)
    teacher: Tensor | None = None
    temperature: float = 1.0


class Method(abc.ABC, Generic[S]):
    """A training method. Instances hold nothing: what changes while training is in `State`."""

    name: ClassVar[str]
    settings: ClassVar[type[Settings]] = Settings
    # The published checkpoint layout the files follow, by which evaltk reads them: dino, ibot or msn.
    layout: ClassVar[str] = "dino"
    # Parameters whose name contains one of these have no gradient in the first `optim.freeze_last_layer` epochs.
    frozen_at_first: ClassVar[tuple[str, ...]] = ("last_layer",)
    # Parameters neither clipped nor decayed, by name.
    unregularized: ClassVar[tuple[str, ...]] = ()
    # Keys of a checkpoint's tree: student, teacher, optimizer.
    tree_keys: ClassVar[tuple[str, str, str]] = ("student", "teacher", "optimizer")
    # Each centre and its key under the tree's `<layout>_loss`, where it has the shape [1, ..., 1, K].
    center_keys: ClassVar[Mapping[str, tuple[str, tuple[int, ...]]]] = {"cls": ("center", (1, -1))}

    # Before training

    def rules(self, settings: S, views: Views) -> Iterable[Rule]:
        """What the settings have to fulfil beyond the rules of all methods."""
        return [(views.num_global + views.num_local >= 2, "at least two views", views.num_global + views.num_local)]

    def masks(self, settings: S) -> MaskSettings | None:
        """How patches of the global views are masked for `Batch.mask`; None for no masks."""
        return None

    @abc.abstractmethod
    def network(self, arch: Arch, settings: S, *, drop_path: float) -> Network:
        """Backbone and head; student and teacher are one each. Weights come from torch's default stream."""

    def centers(self, settings: S, device: torch.device) -> dict[str, Tensor]:
        """The centres before the first step: zeros [K]."""
        return {name: torch.zeros(settings.num_prototypes, device=device) for name in self.center_keys}

    # In a step

    def rates(self, optim: Optim, step: int, *, total_steps: int, epoch_steps: int) -> schedules.Rates:
        """Learning rate, weight decay and teacher momentum of a step."""
        return schedules.dino_rates(optim, step, total_steps=total_steps, epoch_steps=epoch_steps)

    @abc.abstractmethod
    def loss(self, batch: Batch, state: State[S]) -> LossOutput:
        """Loss of a micro-batch. Changes nothing in `state`."""

    def update_centers(self, state: State[S]) -> dict[str, Tensor]:
        """The centres after a step, from `state.sums` over its micro-batches and all processes."""
        m = state.settings
        return {
            name: centering.update(center, state.sums[name], kind=m.centering, momentum=m.center_momentum)
            for name, center in state.centers.items()
        }

    # For the log

    def prototypes(self, network: Network) -> Tensor:
        """Effective prototypes [K, p]."""
        return network.head.last_layer.weight.detach()

    def concentrations(self, network: Network, settings: S) -> Tensor | None:
        """kappa [K] of the teacher's prototypes at the final temperature; None if the method has no such parameter."""
        layer = network.head.last_layer
        g = layer.weight_g.detach().abs().flatten()
        return (g if layer.kind != "cosine" else torch.ones_like(g)) / settings.teacher_temp_end

    def log(self, output: LossOutput, teacher_entropy: float) -> dict[str, float]:
        """More values for a log line, by key; `teacher_entropy` in nats, of the last micro-batch."""
        return {}

    # Checkpoints

    def file_key(self, key: str, branch: Literal["student", "teacher"]) -> str | None:
        """The name in a checkpoint of a tensor of the network's state dict; None if it is not stored there."""
        return None if key == "backbone.mask_token" else key

    def pack(self, state: State[S]) -> dict[str, Any]:
        """The method's part of a checkpoint's tree, in its published layout."""
        student, teacher, optimizer = self.tree_keys
        tree: dict[str, Any] = {
            student: self._file_tensors(state.network, "student"),
            teacher: self._file_tensors(state.teacher, "teacher"),
            optimizer: state.optimizer.state_dict(),
        }
        if self.center_keys:
            tree[f"{self.layout}_loss"] = {
                key: state.centers[name].reshape(shape) for name, (key, shape) in self.center_keys.items()
            }
        return tree

    def unpack(self, tree: Mapping[str, Any], state: State[S]) -> None:
        """Load what `pack` stored into `state`. Raises: KeyError, RuntimeError, ValueError: other names or shapes."""
        student, teacher, optimizer = self.tree_keys
        self._load_tensors(state.network, tree[student], "student")
        self._load_tensors(state.teacher, tree[teacher], "teacher")
        state.optimizer.load_state_dict(optim.as_here(tree[optimizer], state.optimizer))
        for name, (key, _) in self.center_keys.items():
            stored = tree[f"{self.layout}_loss"][key]
            state.centers[name] = stored.reshape(-1).to(state.centers[name].device).clone()

    def _file_tensors(self, network: Network, branch: Literal["student", "teacher"]) -> dict[str, Tensor]:
        named = ((self.file_key(key, branch), tensor) for key, tensor in network.state_dict().items())
        return {name: tensor for name, tensor in named if name is not None}

    def _load_tensors(
        self, network: Network, stored: Mapping[str, Tensor], branch: Literal["student", "teacher"]
    ) -> None:
        tensors = {}
        for key, current in network.state_dict().items():
            name = self.file_key(key, branch)
            tensors[key] = current if name is None else stored[name]
        network.load_state_dict(tensors, strict=True)
