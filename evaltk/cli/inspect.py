"""Show what a checkpoint contains and whether it can be used.

Examples:
    evaltk inspect dino_deitsmall16_pretrain_full_checkpoint.pth --branch student
    evaltk inspect net.pt --num-heads 4 --norm-eps 1e-5 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --json
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from evaltk import plugins
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options
from evaltk.errors import SettingsError, printable, some

if TYPE_CHECKING:
    from evaltk.types import Checkpoint

NAMED = 5  # keys of a rule that the text names
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm: measured, not trained


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions):
    """Describe a checkpoint.

    Attributes:
        checkpoint: a file, a catalogue name, timm:NAME, random:ARCH or pixels:SIZE.
        speed: measure images a second, too; takes a few seconds.
        device: where to measure: auto (cuda, else mps, else cpu) or a device.
        batch_size: images a batch of measuring (default: as evaltk run, by the net's size).
        plugin: Python file with families of your own.
        json: print JSON instead of text.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = field(default=(), metadata={"metavar": "FILE.py"})
    json: bool = False
    speed: bool = False
    device: str = field(default="auto", metadata={"metavar": "DEVICE"})
    batch_size: int | None = field(default=None, metadata={"metavar": "N"})


def main(argv: list[str]) -> int:
    """Print it. Raises: CheckpointError: the file cannot be used, with the difference."""
    plugins.use(plugins.named_in(argv))
    options = _options.parse(Options, argv, "inspect", __doc__)
    from evaltk.checkpoints import locate

    locate.check(options.checkpoint)
    from evaltk.checkpoints.load import load

    loaded = load(options.checkpoint, options.read_options())
    facts = describe(loaded) | {"cost": _cost(loaded, options)}
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
        "container": checkpoint.container,
        "feature": _feature(checkpoint),
        "position": checkpoint.position,
        "positions": _positions(checkpoint),
        "view": dataclasses.asdict(checkpoint.view),
        "images": _view(checkpoint),
        "skipped": list(checkpoint.skipped),
        "head": _head(checkpoint),
        "used": {k: list(t.shape) for k, t in checkpoint.weights.items()},
        "dropped": dict(checkpoint.dropped),
        "notes": list(checkpoint.notes),
    }


def _cost(checkpoint: Checkpoint, options: Options) -> dict[str, Any]:
    """Operations of an image as an evaluation shows it, and the rate if asked for; {} where flags lack."""
    from evaltk.data import transforms
    from evaltk.features.nets import auto_batch
    from evaltk.machine import resolve_device
    from evaltk.models import cost
    from evaltk.models.backbone import build_backbone

    c = checkpoint
    px = transforms.view("eval", c.arch.img_size, c.mean, c.std, family=c.view).crop
    try:
        found: dict[str, Any] = {"gflops": cost.flops(build_backbone(c), px) / 1e9, "px": px}
    except SettingsError:  # such as images of another size than its positions, whose rule nothing tells
        return {}
    if options.speed:
        device = resolve_device(options.device)
        net = build_backbone(c, device=device)
        batch = options.batch_size or auto_batch(net)
        rate = cost.images_per_second(net, px, batch)
        found |= {"images_per_second": rate, "batch": batch, "device": device}
    return found


def _spent(cost: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines on what a forward pass costs."""
    operations = cost["gflops"]
    lines = [("cost", f"{operations:.4g} GFLOPs per image of {cost['px']} px ({operations / 2:.4g} G multiply-adds)")]
    if "images_per_second" in cost:
        told = (
            f"{cost['images_per_second']:.4g} images per second in batches of {cost['batch']}, {cost['device']}, fp32"
        )
        lines.append(("speed", told))
    return lines


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
    """What `describe` gives, one line per property, at most 26."""
    from evaltk.checkpoints.rawfile import pattern

    arch, head = facts["arch"], facts["head"]
    epoch = f", epoch {facts['epoch']}" if facts["epoch"] else ""
    lines = [
        ("file", facts["origin"]),
        ("sha256", facts["sha256"] or "- (no file)"),
        ("family", f"{facts['family']}, branch {facts['branch']}{epoch}"),
        ("container", facts["container"] or "-"),
        ("origin proved by", facts["origin_proof"]),
        (
            "net",
            f"{arch['name']}: {arch['embed_dim']} wide, {arch['depth']} blocks, {_of_transformer(arch)}"
            f"patch {arch['patch_size']}, {arch['img_size']} px, {facts['parameters']:,} parameters",
        ),
        *((("details", ", ".join(f"{k} {_spelled(v)}" for k, v in arch["details"])),) if arch["details"] else ()),
        *(_spent(facts["cost"]) if facts.get("cost", {}).get("gflops") else ()),
        ("class feature", facts["feature"]),
        ("positions", facts["positions"]),
        ("images", f"{facts['images']}, mean {_numbers(facts['mean'])}, std {_numbers(facts['std'])}"),
        (
            "head",
            f"{head['kind']}: {head['prototypes']:,} prototypes of dimension {head['dimension']}, norms "
            f"{head['norm_min']:.4g} to {head['norm_max']:.4g} (median {head['norm_median']:.4g}), "
            f"{'with' if head['center'] else 'without'} the training centre"
            if head
            else "none",
        ),
        ("keys", f"{len(facts['used'])} tensors used, {len(facts['dropped'])} entries dropped"),
        *_few(
            [
                (f"  {rule}", some(list(dict.fromkeys(map(pattern, keys))), NAMED))
                for rule, keys in _by_rule(facts["dropped"]).items()
            ],
            6,
        ),
        *((("skipped", some(facts["skipped"], NAMED)),) if facts["skipped"] else ()),
        *_few([("note", note) for note in facts["notes"]], 4),
    ]
    return "\n".join(printable(f"{name:<20} {value}") for name, value in lines)


def _of_transformer(arch: dict[str, Any]) -> str:
    if arch["kind"] in ("resnet", "pixels"):
        return ""
    return f"{arch['num_heads']} heads, eps {arch['norm_eps']:g}, {arch['activation']}, "


def _few(lines: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """The first lines, and how many more there are (`--json` has all)."""
    left = len(lines) - most
    return lines if left <= 0 else [*lines[: most - 1], (lines[most - 1][0], f"and {left + 1} more: --json")]


def _spelled(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _feature(checkpoint: Checkpoint) -> str:
    """What `Tokens.cls` is, in words."""
    arch = checkpoint.arch
    if arch.kind in ("resnet", "pixels"):
        return "mean over positions of the last map" if arch.kind == "resnet" else "the image itself"
    if arch.pool == "token":
        return "class token after the final norm"
    if arch.pool == "map":
        return "attention pool over the normed patches"
    return "mean of patches, then the norm" if dict(arch.details).get("fc_norm") else "mean of patches after the norm"


def _view(checkpoint: Checkpoint) -> str:
    """The preprocessing of an evaluation, in words."""
    from evaltk.data import transforms

    c = checkpoint
    view = transforms.view("eval", c.arch.img_size, c.mean, c.std, family=c.view)
    both = "both sides to " if view.square else ""
    return f"{both}{view.resize} {view.interpolation}, crop {view.crop}"


def _positions(checkpoint: Checkpoint) -> str:
    """The rule for other sizes, in words."""
    arch, rule = checkpoint.arch, checkpoint.position
    if arch.kind == "eva":
        return "rotary: any size"
    if arch.kind == "swin":
        return "relative to windows: any size of whole patches"
    if arch.kind in ("resnet", "xcit", "pixels"):
        return "none are learnt"
    return (
        f"learnt at {arch.img_size} px; others by the rule {rule}"
        if rule
        else f"{arch.img_size} px; others: --position"
    )


def _numbers(values: list[float]) -> str:
    return " ".join(f"{v:g}" for v in values)


def _by_rule(dropped: dict[str, str]) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {}
    for key, rule in dropped.items():
        rules.setdefault(rule, []).append(key)
    return rules
