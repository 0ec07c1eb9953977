"""Checkpoints of a run: written whole, the last good one never touched, in the layout of DINO, iBOT or MSN."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaltk import files
from evaltk.errors import CheckpointError, EvaltkError
from evaltk.progress import log
from evaltk.types import Arch
from pretrain.nets import Network
from pretrain.recipe import Recipe

FORMAT = 1
LAST, BEFORE = "checkpoint.pth", "checkpoint.before.pth"
# What may differ between the run that wrote a checkpoint and the one that goes on with it.
FREE = ("name", "run.workers", "run.save_minutes", "run.keep_every", "run.log_every", "run.monitor_every", "run.knn",
        "run.compile", "data.source", "data.skip_bad_images")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a run is: whole epochs done, steps done in the current one, steps in all."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


def pack(
    recipe: Recipe,
    arch: Arch,
    nets: tuple[Network, Network],
    centers: Mapping[str, Tensor],
    training: Mapping[str, Any],
    position: Position,
) -> dict[str, Any]:
    """The file's tree. `training`: state dicts of ``optimizer`` and, where there is one, ``fp16_scaler``."""
    student, teacher = (
        _named(net, recipe.method.name, which) for net, which in zip(nets, ("student", "teacher"), strict=True)
    )
    told = {
        "method": recipe.method.name,
        "arch": dataclasses.asdict(arch),
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "recipe": dataclasses.asdict(recipe),
    }
    tree: dict[str, Any] = {
        "evaltk_format": FORMAT,
        "config": json.dumps(told),
        "epoch": position.epoch,
        "progress": dataclasses.asdict(position),
    }
    if "fp16_scaler" in training:
        tree["fp16_scaler"] = training["fp16_scaler"]
    if recipe.method.name == "msn":
        names = {"encoder": student, "target_encoder": teacher, "prototypes": nets[0].prototypes.detach()}
        return tree | names | {"opt": training["optimizer"]}
    tree |= {"student": student, "teacher": teacher, "optimizer": training["optimizer"]}
    if recipe.method.name == "dino":
        return tree | {"dino_loss": {"center": centers["cls"][None]}}
    return tree | {"ibot_loss": {"center": centers["cls"][None], "center2": centers["patch"][None, None]}}


def _named(net: Network, method: str, which: str) -> dict[str, Tensor]:
    """A network's tensors under the original's names: what evaltk and other people's loaders expect."""
    out = {}
    for key, tensor in net.state_dict().items():
        if key == "backbone.mask_token":
            if method == "ibot" and which == "student":  # iBOT's teacher has none
                out["backbone.masked_embed"] = tensor
        elif method == "msn":
            if key != "prototypes":
                out[
                    key.removeprefix("backbone.").replace("head.", "fc.", 1)
                    if key.startswith(("backbone.", "head."))
                    else key
                ] = tensor
        else:
            out[key] = tensor
    return out


def restore(net: Network, saved: Mapping[str, Tensor], method: str, prototypes: Tensor | None) -> None:
    """The reverse of `_named`: load a network's tensors. Raises: RuntimeError: names or shapes that differ."""
    state = {}
    for key in net.state_dict():
        if key == "backbone.mask_token":
            state[key] = saved.get("backbone.masked_embed", net.state_dict()[key])
        elif key == "prototypes" and prototypes is not None:
            state[key] = prototypes
        elif method == "msn":
            state[key] = saved[
                key.removeprefix("backbone.") if key.startswith("backbone.") else key.replace("head.", "fc.", 1)
            ]
        else:
            state[key] = saved[key]
    net.load_state_dict(state, strict=True)


def write(folder: Path, tree: Mapping[str, Any], *, keep: str | None = None) -> Path:
    """Write the last checkpoint; the one before it stays until the new one is whole. `keep`: also under this name.

    Raises: StorageError: no room; what was there before is untouched.
    """
    last, before = folder / LAST, folder / BEFORE
    new = folder / f"{LAST}.new"
    files.write(new, lambda stream: torch.save(dict(tree), stream))
    with files.storage_errors(folder):
        if last.exists():
            last.replace(before)
        new.replace(last)
        if keep:
            kept = folder / keep
            kept.unlink(missing_ok=True)
            kept.hardlink_to(last)
    return last


def read(path: Path) -> dict[str, Any]:
    """The tree of a training checkpoint. Raises: CheckpointError: none of ours, or damaged."""
    from evaltk.checkpoints import rawfile

    tree = dict(rawfile.read(path).tree)
    if tree.get("evaltk_format") != FORMAT:
        raise CheckpointError(
            wanted=f"a training checkpoint of format {FORMAT}", got=repr(tree.get("evaltk_format")), where=path,
            do="resume from a file that pretrain wrote",
        )  # fmt: skip
    return tree


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint of a run that reads well, or None; a damaged one is named and the one before it taken."""
    for name in (LAST, BEFORE):
        path = folder / name
        if path.exists():
            try:
                return path, read(path)
            except EvaltkError as error:
                log.warning("%s", error)
    return None


def check_same(tree: Mapping[str, Any], recipe: Recipe, path: Path) -> None:
    """Raises: CheckpointError: the checkpoint is of another recipe; the first settings that differ are named."""
    then, now = _flat(json.loads(tree["config"])["recipe"]), _flat(json.loads(json.dumps(dataclasses.asdict(recipe))))
    differ = [f"{k} was {then.get(k)}, is {now.get(k)}" for k in now if k not in FREE and then.get(k) != now.get(k)]
    if differ:
        raise CheckpointError(
            wanted="a checkpoint of this recipe", got="; ".join(differ[:4]), where=path,
            do="resume with the same recipe, choose another --out, or pass --resume never",
        )  # fmt: skip


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
