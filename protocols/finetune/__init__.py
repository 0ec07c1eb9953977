"""Fine-tuning of the whole net with a new linear head."""

from protocols.finetune.protocol import KIND, TITLE, VERSION, Settings, check, check_checkpoint, needs, prepare, run

__all__ = ["KIND", "TITLE", "VERSION", "Settings", "check", "check_checkpoint", "needs", "prepare", "run"]
