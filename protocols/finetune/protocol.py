"""Fine-tuning of the whole net with a new linear head: BEiT's recipe on ImageNet, DeiT's on small datasets.

Protocol: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), A.6.5 and Tables 14 and 15, with the code it names:
ibot/evaluation/classification_layer_decay/run_class_finetuning.py and ibot/evaluation/eval_cls.py at c24f870. That
code runs under float16 autocast; here ``--precision`` says fp32 or bf16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaltk.bench import Bench, Extracts, Outcome, of_all_splits
from evaltk.data.images import Dataset
from evaltk.errors import CheckpointError
from protocols import linear

if TYPE_CHECKING:
    from evaltk.types import Checkpoint

from protocols.finetune.settings import Settings


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """No features, as the net changes: training reads the images of both splits."""
    return of_all_splits(dataset)


def check(dataset: Dataset, settings: Settings) -> None:
    """What can be told before any work. Raises: DataError: labels missing, or one class only."""
    linear.check(dataset, linear.Settings())


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Raises: CheckpointError: no ViT, or one whose feature is not its class token."""
    arch = checkpoint.arch
    if arch.kind != "vit" or arch.pool != "token":
        got = arch.name if arch.kind != "vit" else f"{arch.name}, which pools its patches"
        wanted = "a ViT with a class token to fine-tune"
        raise CheckpointError(wanted=wanted, got=got, where=checkpoint.origin, do="leave finetune out")


def prepare(bench: Bench, dataset: Dataset, settings: Settings) -> None:
    """Train, all processes together; what is done is kept in the cache. Raises: as `run`."""
    from evaltk import distributed
    from protocols.finetune import data as finetune_data

    job = finetune_data.job(bench, dataset, settings)
    if not distributed.broadcast_object(distributed.is_main() and job.store.ready()):
        finetune_data.train(job)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """Top-1 and mean per class: best epoch and learning rate on the reported split, as the papers report it; and after
    the last epoch, of the learning rate chosen on held-out training images and of each.

    Raises: DataError: unreadable images, fewer training images than a batch. SettingsError: settings that do not go
        together, training that diverged with every learning rate.
    """
    from protocols.finetune import data as finetune_data

    job = finetune_data.job(bench, dataset, settings)
    if not job.store.done():
        finetune_data.train(job)
    return finetune_data.outcome(job)
