"""Semantic segmentation of frozen patch tokens: a linear layer, and nearest patches; mIoU over all pixels."""

from evaltk.bench import Protocol
from protocols.segmentation.protocol import check, extracts, run
from protocols.segmentation.settings import Settings

__all__ = ["PROTOCOL", "Settings", "check", "extracts", "run"]

PROTOCOL = Protocol(
    name="segmentation",
    version=1,
    kind="masks",
    settings=Settings,
    run=run,
    doc=__doc__,
    check=check,
    extracts=extracts,
)
