"""Linear transfer to small datasets."""

from protocols.transfer.protocol import KIND, TITLE, VERSION, Settings, check, choose, mean_of_classes, needs, run

__all__ = ["KIND", "TITLE", "VERSION", "Settings", "check", "choose", "mean_of_classes", "needs", "run"]
