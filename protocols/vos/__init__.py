"""Video object segmentation on DAVIS-2017 by label propagation."""

from evaltk.bench import Protocol
from protocols.vos.protocol import VERSION, Settings, prepare, propagate, run

__all__ = ["PROTOCOL", "Settings", "prepare", "propagate", "run"]

PROTOCOL = Protocol(
    name="vos",
    version=VERSION,
    kind="sequences",
    settings=Settings,
    run=run,
    doc=__doc__,
    prepare=prepare,
)
