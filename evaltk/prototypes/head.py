"""The head of a checkpoint, that of its other branch, and the formulation it was trained with."""

from __future__ import annotations

from evaltk.checkpoints import catalog
from evaltk.checkpoints.load import load_checkpoint
from evaltk.errors import CheckpointError, SettingsError, nearest
from evaltk.models.backbone import build_head
from evaltk.models.heads import Head
from evaltk.prototypes.components import SCORINGS, Scoring
from evaltk.types import Checkpoint, HeadWeights

OTHER = {"teacher": "student", "student": "teacher"}


def head_of(checkpoint: Checkpoint, device: str = "cpu") -> Head:
    """The head on the device. Raises: CheckpointError: the file has none; the error names a public file with one."""
    if checkpoint.head is not None:
        head = build_head(checkpoint).to(device)
        head.center = None if head.center is None else head.center.to(device)
        return head
    full = _full_files(checkpoint)
    do = "use the full training checkpoint" + (f" ({full[0].name} and others: evaltk ls checkpoints)" if full else "")
    for entry in full:
        if entry.arch == checkpoint.arch.name:
            do = f"use the full training checkpoint: evaltk fetch {entry.name} ({entry.url.rpartition('/')[2]})"
    if checkpoint.family == "msn":
        do = "use MSN's full training checkpoint, which contains fc.* and prototypes besides the encoder"
    raise CheckpointError(
        wanted="a checkpoint with its projection head and prototypes",
        got=f"a backbone-only {checkpoint.family} file",
        where=checkpoint.origin,
        do=do,
    )


def _full_files(checkpoint: Checkpoint) -> list[catalog.Entry]:
    """The public files with prototypes that its method has; of a family of several methods, only if that is known."""
    entries = catalog.load()
    mine = [entry for entry in entries.values() if entry.family == checkpoint.family]
    if checkpoint.catalogued in entries:
        mine = [entry for entry in mine if entry.method == entries[checkpoint.catalogued].method]
    return [e for e in mine if e.kind == "full"] if len({e.method for e in mine}) == 1 else []


def other_branch(checkpoint: Checkpoint) -> tuple[str, Head | None, str]:
    """(name of the other branch, student or teacher; its head or None; why there is none)."""
    name = OTHER.get(checkpoint.branch)
    if name is None:
        shared = "both branches share the prototypes" if checkpoint.family == "msn" else "the file has one head"
        return "", None, shared
    try:
        arch = checkpoint.arch
        other = load_checkpoint(
            checkpoint.origin,
            branch=name,
            num_heads=arch.num_heads,
            norm_eps=arch.norm_eps,
            mean=checkpoint.mean,
            std=checkpoint.std,
            family=checkpoint.family,
        )
        return name, build_head(other), ""
    except CheckpointError as error:
        return name, None, f"the {name}'s head could not be read: {error.got}"


def formulation(head: HeadWeights, setting: str) -> tuple[Scoring, str]:
    """(the scoring, a note on where it comes from). setting: ``auto`` or a scoring.

    Raises: SettingsError: an unknown setting.
    """
    if setting in SCORINGS:
        return setting, f"formulation {setting}: set by the user"  # type: ignore[return-value]
    if setting != "auto":
        do = nearest(setting, ("auto", *SCORINGS))
        raise SettingsError(wanted="a formulation", got=repr(setting), where="formulation", do=do)
    if head.kind == "msn":
        return "cosine", "formulation cosine: MSN's loss normalises prototypes"
    if head.kind == "swav":
        return "cosine", "formulation cosine: SwAV's loss normalises prototypes"
    if head.scoring in SCORINGS:
        return head.scoring, f"formulation {head.scoring}: stated in the file"  # type: ignore[return-value]
    return "linear", f"formulation linear: not stated in the file; published {head.kind} checkpoints are linear"
