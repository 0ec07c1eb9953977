"""Folders in which training frameworks keep a net in shards: named, with the command that merges them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from evaltk.errors import CheckpointError

WANTED = "a checkpoint with whole weights"
DEEPSPEED_NET = re.compile(r"mp_rank_\d+_model_states\.pt")
DEEPSPEED_SHARD = re.compile(r"(bf16_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt")
RANKS = re.compile(r"(?:^|.*[._-])rank[_-]?\d+(?:[._-].*)?\.(?:pt|pth|bin|ckpt)")


def whole_file(path: Path) -> Path | None:
    """The one file with whole weights that DeepSpeed writes unless it shards them (ZeRO stage 3), None without.

    Lightning puts it into `checkpoint/`, DeepSpeed into the folder that its file `latest` names.
    """
    for folder in _deepspeed(path):
        found = [p.name for p in sorted(folder.iterdir())]
        nets = [name for name in found if DEEPSPEED_NET.fullmatch(name)]
        sharded = any((m := DEEPSPEED_SHARD.fullmatch(name)) and m[2] == "model" for name in found)
        if len(nets) == 1 and not sharded:
            return folder / nets[0]
    return None


def refuse(path: Path) -> None:
    """Raises: CheckpointError: the folder holds shards of a net, or a checkpoint of another framework."""
    names = {p.name for p in path.iterdir()}
    for folder in _deepspeed(path):
        if any(DEEPSPEED_SHARD.fullmatch(p.name) or DEEPSPEED_NET.fullmatch(p.name) for p in folder.iterdir()):
            root = path.parent if folder == path else path
            do = f"run: python {root}/zero_to_fp32.py {root} OUT (DeepSpeed puts the script there), and name its output"
            _refuse(path, "DeepSpeed's shards of a net (ZeRO stage 3, or split over processes)", do)
    inner = next((p for p in sorted(path.iterdir()) if p.is_dir() and (p / ".metadata").is_file()), None)
    if ".metadata" in names or any(name.endswith(".distcp") for name in names) or inner:
        shards = path if inner is None else inner
        do = f"run: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shards} out.pth, and name out.pth"
        what = "a net in the shards of torch.distributed.checkpoint (FSDP or DCP)"
        if (shards / "meta.pt").is_file():
            what = "a net in the shards of Lightning's FSDP strategy"
            do = f"run: python -m lightning.pytorch.utilities.consolidate_checkpoint {shards}, and name its output"
        _refuse(path, what, do)
    if sum(RANKS.fullmatch(name) is not None for name in names) > 1:
        do = "gather the weights in the code that trained it (FSDP: state_dict_type FULL_STATE_DICT), and save them"
        _refuse(path, "one file for every process of a training", do)
    if any(name.endswith(".index") for name in names) and any(".data-0" in name for name in names):
        _refuse(path, "a TensorFlow checkpoint", "convert its arrays by name into a torch state_dict")
    if names & {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"}:
        _refuse(path, "a checkpoint of JAX (Orbax)", "convert its arrays by name into a torch state_dict")
    if "latest_checkpointed_iteration.txt" in names:
        do = "convert it in Megatron (tools/checkpoint/convert.py), and name the output"
        _refuse(path, "a checkpoint of Megatron, split over processes", do)


def _deepspeed(path: Path) -> list[Path]:
    """The folders in which DeepSpeed's files may lie: itself, `checkpoint/`, and the one that `latest` names."""
    found = [path, path / "checkpoint"]
    latest = path / "latest"
    if latest.is_file() and latest.stat().st_size < 200:
        name = latest.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"\w[\w.-]*", name):
            found.append(path / name)
    return [folder for folder in found if folder.is_dir()]


def _refuse(path: Path, what: str, do: str) -> NoReturn:
    raise CheckpointError(wanted=WANTED, got=what, where=path, do=do)
