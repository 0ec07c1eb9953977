"""Video object segmentation on DAVIS-2017."""

from protocols.vos.protocol import KIND, TITLE, VERSION, Settings, needs, prepare, propagate, run

__all__ = ["KIND", "TITLE", "VERSION", "Settings", "needs", "prepare", "propagate", "run"]
