"""What a run has put up with so far: unreadable images, skipped steps, rollbacks. Part of the state, so it resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaltk import distributed
from evaltk.errors import DataError
from evaltk.progress import log
from pretrain.data.sources import SKIP_OR_RESTORE, Bad, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Incidents:
    """Of the whole run, the same on every process.

    Attributes:
        unreadable: ids of the images that could not be read, sorted; each counts once, whoever reads it.
        skipped: steps whose update was left out, since something in them was not finite.
        reorders: one step per rollback, from which on the images come in another order.
    """

    unreadable: tuple[str, ...] = ()
    skipped: tuple[int, ...] = ()
    reorders: tuple[int, ...] = ()

    def with_unreadable(self, found: Sequence[Bad]) -> Incidents:
        """With more unreadable images, of which those that are new are named in the log."""
        new = {name: told for name, told in found if name not in self.unreadable}
        for told in new.values() if distributed.is_main() else ():
            log.warning("unreadable image replaced by the next: %s", told)
        return replace(self, unreadable=tuple(sorted({*self.unreadable, *new}))) if new else self


def of_config(stored: object) -> Incidents:
    """As a checkpoint states them; files of earlier versions state none. Raises: ValueError: something else."""
    if stored is None:
        return Incidents()
    if not isinstance(stored, Mapping) or {*stored} != {"unreadable", "skipped", "reorders"}:
        raise ValueError("no list of incidents")
    names, skipped, reorders = (stored[key] for key in ("unreadable", "skipped", "reorders"))
    if not (_all(str, names) and _all(int, skipped) and _all(int, reorders)):
        raise ValueError("a list of incidents that is none")
    return Incidents(unreadable=tuple(names), skipped=tuple(skipped), reorders=tuple(reorders))


def _all(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(type(v) is kind for v in values)


def read_again(incidents: Incidents, source: Source) -> Incidents:
    """Without the images that can be read by now, such as restored ones. All processes call it; the main one reads."""
    if not incidents.unreadable:
        return incidents
    kept: object = ()
    if distributed.is_main():
        wanted, still = set(incidents.unreadable), []
        for index in range(len(source)):
            if (name := source.image_id(index)) in wanted:
                try:
                    source.open(index)
                except DataError:
                    still.append(name)
        kept = tuple(sorted(still))
    kept = distributed.broadcast_object(kept)
    assert isinstance(kept, tuple)
    return replace(incidents, unreadable=kept)


def too_many(incidents: Incidents, allowed: int, *, where: object = "") -> DataError | None:
    """The error if more images are unreadable than allowed."""
    count = len(incidents.unreadable)
    if count <= allowed:
        return None
    return DataError(
        wanted=f"at most {allowed} unreadable images",
        got=str(count),
        where=where or incidents.unreadable[0],
        do=SKIP_OR_RESTORE,
    )
