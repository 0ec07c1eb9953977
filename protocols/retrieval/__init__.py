"""Image retrieval on revisited Oxford and Paris."""

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
