"""Fine-tuning of the whole net with a new linear head."""

from evaltk.bench import Protocol
from protocols.finetune.protocol import Settings, check, check_checkpoint, extracts, prepare, run

__all__ = ["PROTOCOL", "Settings", "check", "check_checkpoint", "extracts", "prepare", "run"]

PROTOCOL = Protocol(
    name="finetune",
    version=2,  # 2: first weights are drawn the same on every processor
    kind="images",
    settings=Settings,
    run=run,
    doc=__doc__,
    check=check,
    check_checkpoint=check_checkpoint,
    extracts=extracts,
    prepare=prepare,
)
