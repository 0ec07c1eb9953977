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
from evaltk.prototypes.defaults import THRESHOLD, THRESHOLDS


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions):
    """Count duplicates in a matrix of prototypes.

    Attributes:
        matrix: .npy [K, p], one prototype a row; or a checkpoint with its projection head.
        threshold: cosine above which two are duplicates, for the verdict (0.9, Table 4 of the DINO-vMF paper).
        thresholds: the sweep.
        device: auto (cuda, else mps, else cpu) or cpu, mps, cuda, cuda:N.
        json: print one JSON line.
    """

    matrix: Path
    threshold: float = THRESHOLD
    thresholds: tuple[float, ...] = THRESHOLDS
    device: str = "auto"
    json: bool = False


def main(argv: list[str]) -> int:
    """Parse, count, print. Raises: DataError, CheckpointError: a file that will not do. SettingsError: a threshold."""

    options = _options.parse(Options, argv, "score prototypes", __doc__)
    from evaltk.cli.score._terminal import show_table
    from evaltk.machine import resolve_device
    from evaltk.prototypes.report import score_matrix
    from reports.duplicates import duplicates_table

    report = score_matrix(
        options.matrix,
        thresholds=options.thresholds,
        threshold=options.threshold,
        device=resolve_device(options.device, mps=False),
        read=options.read_options(),
    )
    if options.json:
        print(json.dumps(report))
    else:
        show_table(duplicates_table(report))
    return 0
