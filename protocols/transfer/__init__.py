"""Linear transfer to small datasets: L2 softmax regression on frozen features."""

from protocols.transfer.protocol import KIND, TITLE, VERSION, Settings, check, choose, mean_of_classes, needs, run

__all__ = ["KIND", "TITLE", "VERSION", "Settings", "check", "choose", "mean_of_classes", "needs", "run"]
