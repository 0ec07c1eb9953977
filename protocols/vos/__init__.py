"""Video object segmentation on DAVIS-2017 by label propagation."""

from protocols.vos.protocol import KIND, TITLE, VERSION, Settings, needs, prepare, propagate, run

__all__ = ["KIND", "TITLE", "VERSION", "Settings", "needs", "prepare", "propagate", "run"]
