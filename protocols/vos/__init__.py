"""Video object segmentation on DAVIS-2017 by label propagation."""

from evaltk.bench import Protocol
from protocols.vos.cost import estimate
from protocols.vos.protocol import VERSION, Settings, prepare, propagate, run

__all__ = ["PROTOCOL", "Settings", "prepare", "propagate", "run"]

PROTOCOL = Protocol(
    name="vos",
    version=VERSION,
    kind="sequences",
    settings=Settings,
    run=run,
    estimate=estimate,
    doc=__doc__,
    prepare=prepare,
)
