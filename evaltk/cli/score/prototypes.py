"""Duplicate prototypes of a matrix or a checkpoint's head.

Examples:
    evaltk score prototypes --matrix W.npy
    evaltk score prototypes --matrix dino_deitsmall16_pretrain_full_checkpoint.pth --thresholds 0.9 --json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions):
    """Count near-copies in a matrix of prototypes.

    Attributes:
        matrix: .npy [K, p], one prototype a row; or a checkpoint with its projection head.
        threshold: cosine above which two are near-copies, for the verdict (0.9, Table 4 of the DINO-vMF paper).
        thresholds: the sweep.
        device: auto (cuda, else mps, else cpu) or cpu, mps, cuda, cuda:N.
        json: print one JSON line.
    """

    matrix: Path
    threshold: float = 0.9
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    device: str = "auto"
    json: bool = False


def main(argv: list[str]) -> int:
    """Parse, count, print. Raises: DataError, CheckpointError: a file that will not do. SettingsError: a threshold."""

    options = _options.parse(Options, argv, "score prototypes", __doc__)
    from evaltk.machine import resolve_device
    from evaltk.prototypes import report as prototype_report

    told = prototype_report.score_matrix(
        options.matrix,
        thresholds=options.thresholds,
        threshold=options.threshold,
        device=resolve_device(options.device, mps=False),
        read=options.read_options(),
    )
    print(json.dumps(told) if options.json else prototype_report.text(told))
    return 0
