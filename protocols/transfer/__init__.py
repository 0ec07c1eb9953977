"""Linear transfer to small datasets: L2 softmax regression on frozen features."""

from evaltk.bench import Protocol
from protocols.transfer.cost import estimate
from protocols.transfer.protocol import Settings, check, choose, extracts, mean_of_classes, run

__all__ = ["PROTOCOL", "Settings", "check", "choose", "extracts", "mean_of_classes", "run"]

PROTOCOL = Protocol(
    name="transfer",
    version=1,
    kind="images",
    settings=Settings,
    run=run,
    estimate=estimate,
    doc=__doc__,
    check=check,
    extracts=extracts,
    chooses_feature=True,
)
