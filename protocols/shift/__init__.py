"""Classifiers judged on other test sets: ImageNet-V2, -A, -R, -Sketch, -C, corruptions; accuracy and calibration."""

from evaltk.bench import Protocol
from protocols.shift.protocol import check, extracts, identity, run
from protocols.shift.settings import Settings

__all__ = ["PROTOCOL", "Settings", "check", "extracts", "identity", "run"]

PROTOCOL = Protocol(
    name="shift",
    version=1,
    kind="images",
    settings=Settings,
    run=run,
    doc=__doc__,
    check=check,
    identity=identity,
    extracts=extracts,
    chooses_feature=True,
)
