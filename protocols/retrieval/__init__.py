"""Image retrieval on the revisited Oxford and Paris benchmarks."""

from protocols.retrieval.protocol import (
    DIFFICULTIES,
    KIND,
    MEASURES,
    TITLE,
    VERSION,
    Settings,
    needs,
    prepare,
    run,
    splits,
)

__all__ = ["DIFFICULTIES", "KIND", "MEASURES", "TITLE", "VERSION", "Settings", "needs", "prepare", "run", "splits"]
