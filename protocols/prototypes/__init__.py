"""Prototype analysis: duplicates under four definitions, the void set, utilisation."""

from evaltk.bench import Protocol
from protocols.prototypes.protocol import NEED, Settings, check_checkpoint, duplicate_sets, extracts, learns, run

__all__ = ["NEED", "PROTOCOL", "Settings", "check_checkpoint", "duplicate_sets", "extracts", "learns", "run"]

PROTOCOL = Protocol(
    name="prototypes",
    version=2,
    kind="images",
    settings=Settings,
    run=run,
    doc=__doc__,
    check_checkpoint=check_checkpoint,
    extracts=extracts,
    learns=learns,
)
