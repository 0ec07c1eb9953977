"""The whole pipeline on bundled data (scikit-learn's digits), offline, on a laptop CPU: checkpoint to table.

Examples:
    evaltk demo
    evaltk demo --out /tmp/demo --again
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

NET = "vit_patch4_dim192_depth4_heads3_img32"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The whole pipeline on bundled data.

    Attributes:
        out: folder for the demo's checkpoint, cache and results.
        again: run again what is done.
    """

    out: Path = Path("runs/demo")
    again: bool = False


def main(argv: list[str]) -> int:
    """Save an untrained ViT in DINO's layout, read it back, and compare it with raw pixels by k-NN on digits."""
    from evaltk import runner
    from evaltk.progress import log
    from protocols import knn
    from reports import ink, tables

    options = tyro.cli(Options, args=argv, prog="evaltk demo", description=__doc__)
    untrained = options.out / "untrained_vit.pth"
    if not untrained.exists():
        from evaltk.checkpoint import load_checkpoint

        write_dino_layout(load_checkpoint(f"random:{NET}").weights, untrained)
    log.info("an untrained ViT in DINO's layout: %s (look at it: evaltk inspect %s)", untrained, untrained)
    plan = runner.Plan(
        checkpoints=("pixels:8", str(untrained)),
        protocols={"knn": knn.Settings()},
        data=("digits",),
        out=options.out / "results",
        cache=options.out / "cache",
        again=options.again,
    )
    shown: list = []
    runner.run(plan, report=lambda job, result, skipped: shown.append(result))
    for table in tables.overview(shown):
        sys.stdout.write(ink.ink(table, "md"))
    log.info("results: %s (print them again: evaltk table --runs %s)", plan.out, plan.out)
    return 0


def write_dino_layout(weights: object, path: Path) -> None:
    """Save backbone weights as DINO's training does: the teacher of a full checkpoint, keys under ``backbone.``."""
    import torch

    from evaltk import files

    assert isinstance(weights, dict)
    tree = {"teacher": {f"backbone.{k}": t for k, t in weights.items()}, "epoch": 0}
    files.write(path, lambda stream: torch.save(tree, stream))
