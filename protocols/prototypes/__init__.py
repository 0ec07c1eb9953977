"""Prototype analysis: duplicates under four definitions, the void set, utilisation."""

from protocols.prototypes.protocol import KIND, TITLE, VERSION, Settings, check_checkpoint, duplicate_sets, needs, run

__all__ = ["KIND", "TITLE", "VERSION", "Settings", "check_checkpoint", "duplicate_sets", "needs", "run"]
