"""Linear classification on frozen features, Lin.[C] and Lin.[D]."""

from evaltk.bench import Protocol
from protocols.linear.cost import estimate
from protocols.linear.protocol import check, extracts, identity, learns, prepare, run
from protocols.linear.settings import LRS, PAPER_EPOCHS, Settings, dino_rule

__all__ = [
    "LRS",
    "PAPER_EPOCHS",
    "PROTOCOL",
    "Settings",
    "check",
    "dino_rule",
    "extracts",
    "identity",
    "learns",
    "prepare",
    "run",
]

PROTOCOL = Protocol(
    name="linear",
    version=2,  # 2: first weights are drawn the same on every processor
    kind="images",
    settings=Settings,
    run=run,
    estimate=estimate,
    doc=__doc__,
    check=check,
    identity=identity,
    extracts=extracts,
    prepare=prepare,
    chooses_feature=True,
    learns=learns,
)
