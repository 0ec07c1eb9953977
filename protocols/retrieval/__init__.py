"""Image retrieval on the revisited Oxford and Paris benchmarks."""

from evaltk.bench import Protocol
from protocols.retrieval.protocol import DIFFICULTIES, MEASURES, Settings, extracts, prepare, run

__all__ = ["DIFFICULTIES", "MEASURES", "PROTOCOL", "Settings", "extracts", "prepare", "run"]

PROTOCOL = Protocol(
    name="retrieval",
    version=1,
    kind="retrieval",
    settings=Settings,
    run=run,
    doc=__doc__,
    extracts=extracts,
    prepare=prepare,
)
