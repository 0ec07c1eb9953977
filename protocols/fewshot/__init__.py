"""Few-shot classification as in MSN: softmax regression on 1, 2 and 5 images per class, and on 1 % of the images."""

from evaltk.bench import Protocol
from protocols.fewshot.protocol import Settings, centred, check, choose, extracts, fit, need_of, run

__all__ = ["PROTOCOL", "Settings", "centred", "check", "choose", "extracts", "fit", "need_of", "run"]

PROTOCOL = Protocol(
    name="fewshot",
    version=2,  # 2: parts of parquet splits hold their own images
    kind="images",
    settings=Settings,
    run=run,
    doc=__doc__,
    check=check,
    extracts=extracts,
    chooses_feature=True,
)
