"""What changes while training: both nets, optimizer, scaler, centres, position; begun afresh or from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from evaltk import distributed
from evaltk.errors import CheckpointError
from evaltk.progress import log
from evaltk.types import Arch
from pretrain import checkpoint as saving
from pretrain import nets, objective, optim
from pretrain.checkpoint import Position
from pretrain.nets import Network
from pretrain.recipe import Recipe


@dataclass(slots=True)
class State:
    """What changes while training."""

    student: nn.Module
    network: Network
    teacher: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    centers: dict[str, Tensor]
    position: Position


def begin(recipe: Recipe, arch: Arch, device: torch.device) -> State:
    """A run before its first step."""
    network, teacher = nets.pair(arch, recipe.method, drop_path=recipe.net.drop_path, seed=recipe.run.seed)
    network, teacher = network.to(device), teacher.to(device)
    if recipe.run.compile:
        for block in (*network.backbone.blocks, *teacher.backbone.blocks):
            block.compile()
    student: nn.Module = network
    if distributed.active():
        # Buffers are batch statistics, which the processes share already.
        student = DistributedDataParallel(network, broadcast_buffers=False)
    optimizer = torch.optim.AdamW(optim.groups(network), lr=0.0)  # type: ignore[arg-type]
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.run.precision == "fp16" and device.type == "cuda")
    centers = objective.initial_centers(recipe.method, device)
    return State(student, network, teacher, optimizer, scaler, centers, Position())


def go_on(state: State, recipe: Recipe, out: Path, resume: str) -> None:
    """Take up the newest checkpoint in `out` (``auto``), none (``never``), or the one named.

    Raises: CheckpointError: it is of another recipe, method or shape.
    """
    if resume == "never":
        return
    found = saving.newest(out) if resume == "auto" else (Path(resume), saving.read(Path(resume)))
    if found is None:
        return
    path, tree = found
    saving.check_same(tree, recipe, path)
    name = recipe.method.name
    keys = ("encoder", "target_encoder", "opt") if name == "msn" else ("student", "teacher", "optimizer")
    try:
        for net, key in ((state.network, keys[0]), (state.teacher, keys[1])):
            saving.restore(net, tree[key], name, tree.get("prototypes"))
        state.optimizer.load_state_dict(tree[keys[2]])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            wanted="a checkpoint of this net", got=str(error).splitlines()[0][:160], where=path, do="--resume never"
        ) from error
    if "fp16_scaler" in tree:
        state.scaler.load_state_dict(tree["fp16_scaler"])
    loss = tree.get(f"{name}_loss", {})
    for ours, theirs in (("cls", "center"), ("patch", "center2")):
        if ours in state.centers:
            state.centers[ours] = loss[theirs].reshape(-1).to(state.centers[ours].device).clone()
    state.position = Position(**tree["progress"])
    log.info("going on from %s: epoch %d, step %d", path, state.position.epoch, state.position.step)
