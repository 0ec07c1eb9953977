"""Describe a checkpoint: family, branch, architecture, head, prototypes, keys used and dropped; exit 2 if unusable.

Examples:
    evaltk inspect dino_deitsmall16_pretrain_full_checkpoint.pth --branch student
    evaltk inspect net.pt --num-heads 4 --norm-eps 1e-5 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --json
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import printable

if TYPE_CHECKING:
    from evaltk.types import Checkpoint

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm: measured, not trained


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions):
    """Describe a checkpoint.

    Attributes:
        checkpoint: a file, a catalogue name, timm:NAME, random:ARCH or pixels:SIZE.
        json: print JSON instead of text.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    json: bool = False


def main(argv: list[str]) -> int:
    """Print it. Raises: CheckpointError: the file cannot be used, with the difference."""
    from evaltk.checkpoints.load import load

    options = tyro.cli(Options, args=argv, prog="evaltk inspect", description=__doc__)
    facts = describe(load(options.checkpoint, options.read_options()))
    print(json.dumps(facts, indent=1) if options.json else text(facts))
    return 0


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything about a checkpoint, as plain values that JSON can hold."""
    return {
        "name": checkpoint.name,
        "origin": checkpoint.origin,
        "sha256": checkpoint.sha256,
        "digest": checkpoint.digest,
        "family": checkpoint.family,
        "branch": checkpoint.branch,
        "epoch": checkpoint.epoch,
        "trained_seed": checkpoint.trained_seed,
        "origin_proof": checkpoint.origin_proof,
        "arch": dataclasses.asdict(checkpoint.arch),
        "parameters": sum(t.numel() for k, t in checkpoint.weights.items() if not k.endswith(STATISTICS)),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "head": _head(checkpoint),
        "used": {k: list(t.shape) for k, t in checkpoint.weights.items()},
        "dropped": dict(checkpoint.dropped),
        "notes": list(checkpoint.notes),
    }


def _head(checkpoint: Checkpoint) -> dict[str, Any] | None:
    if checkpoint.head is None:
        return None
    from evaltk.models.backbone import build_head

    w = build_head(checkpoint).prototypes
    raw = checkpoint.head.tensors.get("prototypes.weight")
    norms = (w if raw is None else raw.float()).norm(dim=1)  # MSN's own rows, before its loss makes them unit
    return {
        "kind": checkpoint.head.kind,
        "prototypes": w.shape[0],
        "dimension": w.shape[1],
        "norm_min": float(norms.min()),
        "norm_median": float(norms.median()),
        "norm_max": float(norms.max()),
        "center": checkpoint.head.center is not None,
    }


def text(facts: dict[str, Any]) -> str:
    """What `describe` gives, one line per property."""
    arch, head = facts["arch"], facts["head"]
    lines = [
        ("file", facts["origin"]),
        ("sha256", facts["sha256"] or "- (no file)"),
        (
            "family",
            f"{facts['family']}, branch {facts['branch']}" + (f", epoch {facts['epoch']}" if facts["epoch"] else ""),
        ),
        ("origin proved by", facts["origin_proof"]),
        (
            "net",
            f"{arch['name']}: {arch['embed_dim']} wide, {arch['depth']} blocks, {arch['num_heads']} heads, patch "
            f"{arch['patch_size']}, {arch['img_size']} px, eps {arch['norm_eps']:g}, "
            f"{facts['parameters']:,} parameters",
        ),
        ("pixels", f"mean {_numbers(facts['mean'])}, std {_numbers(facts['std'])}"),
        (
            "head",
            f"{head['kind']}: {head['prototypes']:,} prototypes of dimension {head['dimension']}, norms "
            f"{head['norm_min']:.4g} to {head['norm_max']:.4g} (median {head['norm_median']:.4g}), "
            f"{'with' if head['center'] else 'without'} the training centre"
            if head
            else "none",
        ),
        ("keys", f"{len(facts['used'])} tensors used, {len(facts['dropped'])} entries dropped"),
        *((f"  {rule}", ", ".join(keys)) for rule, keys in _by_rule(facts["dropped"]).items()),
        *(("note", note) for note in facts["notes"]),
    ]
    return "\n".join(printable(f"{name:<20} {value}") for name, value in lines)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{v:g}" for v in values)


def _by_rule(dropped: dict[str, str]) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {}
    for key, rule in dropped.items():
        rules.setdefault(rule, []).append(key)
    return rules
