"""What becomes of a step that cannot be taken: the run stops, leaves it out, or goes back to its last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from evaltk import distributed
from evaltk.errors import some
from evaltk.progress import log
from pretrain import checkpoint, finite, incidents
from pretrain.data.loader import HostBatch
from pretrain.data.sources import Source
from pretrain.method import Method
from pretrain.monitor import ROLLED_BACK, Monitor, Seen, StepRecord
from pretrain.recipe import Recipe
from pretrain.state import Collapsed, Diverged, State, diverged
from pretrain.watching import Watching

Outcome: TypeAlias = Literal["taken", "skipped", "rolled back"]
ON_END = 5  # steps skipped in a row after which the nets themselves are past help
OVERFLOWS = 40  # in a row, with losses scaled: from 2^16 down to 2^-24


class Guard:
    """Decides the same on every process, from what all of them know."""

    def __init__(
        self,
        recipe: Recipe,
        method: Method[Any],
        watching: Watching,
        saver: checkpoint.Saver,
        monitor: Monitor,
        source: Source,
    ) -> None:
        self.recipe, self.method, self.watching = recipe, method, watching
        self.saver, self.monitor, self.source = saver, monitor, source
        self.overflows = 0

    def begin(self, state: State[Any]) -> None:
        """Before the first step: count what is known to be unreadable; with rollback, see that there is a checkpoint.

        Raises: DataError: more unreadable images than allowed.
        """
        empty = [(name, f"{name}: an empty file") for name in self.source.empty]
        state.incidents = incidents.read_again(state.incidents, self.source).with_unreadable(empty)
        self._check_unreadable(state)
        if self.watching.on_nan == "rollback" and not self._has_checkpoint():
            self.saver.save(state, wait=True)

    def settle(self, record: StepRecord, state: State[Any], batches: Sequence[HostBatch]) -> Outcome:
        """What became of a step: ``taken`` as a rule. After ``rolled back`` the state is that of an earlier step.

        Raises: DataError: more unreadable images than allowed; a checkpoint of the steps before is written. Diverged: a
            step that is not finite, with ``--on-nan stop`` or beyond the limit.
        """
        if record.unreadable and not record.taken and self._too_many(state):
            self.saver.save(state, wait=True)
            self._check_unreadable(state)
        if record.taken:
            self._count_overflows(record)
            return "taken"
        ids = [name for batch in batches for name in batch.ids]
        found = finite.diagnose(state, record.loss, record.parts, record.output, record.gradients, ids)
        return self._mend(found, record.step, state)

    def settle_seen(self, seen: Seen, step: int, state: State[Any]) -> Outcome:
        """As `settle`, of what the monitor saw after a step. Raises: also Collapsed: with ``--stop-on-collapse``."""
        if seen.bad:
            state.incidents = state.incidents.with_unreadable(seen.bad)
            if self._too_many(state):
                self.saver.save(state, wait=True)
                self._check_unreadable(state)
        if seen.collapse is not None and self.watching.stop_on_collapse:
            sign, what = seen.collapse, seen.collapse.text.removeprefix("collapse: ")
            self.monitor.incident(step, state.position.epoch, "collapsed", what)
            got, do = f"step {step}: {what}", f"{sign.do}{self.saver.kept()}"
            raise Collapsed(wanted="a training that does not collapse", got=got, where=self.monitor.path, do=do)
        if not seen.unfinite:
            return "taken"
        first = finite.in_state(state)
        what = seen.unfinite if first is None else f"{first[1]} in {first[0]}"
        return self._mend(finite.Finding(what=what, images=seen.images, spoiled=True), step, state)

    def save(self, state: State[Any], *, keep: str | None = None, wait: bool = False) -> Outcome:
        """Write a checkpoint; a state that is not finite is no more saved than a step is taken. Raises: as `settle`."""
        try:
            self.saver.save(state, keep=keep, wait=wait)
        except Diverged as error:
            if self.watching.on_nan != "rollback":
                raise
            found = finite.Finding(what=error.got, images=(), spoiled=True)
            return self._mend(found, state.position.step - 1, state)
        return "taken"

    def _mend(self, found: finite.Finding, step: int, state: State[Any]) -> Outcome:
        """Skip or roll back as asked for. Raises: Diverged."""
        w, done = self.watching, state.incidents
        self._tell(found, step, state)
        if w.on_nan == "skip" and not found.spoiled:
            if done.skipped[-ON_END:] == tuple(range(step - ON_END, step)):
                raise self._diverged(found, step, f"; {ON_END} steps on end were skipped, which does not help")
            if len(done.skipped) < w.limit:
                state.incidents = replace(done, skipped=(*done.skipped, step))
                self.monitor.incident(step, state.position.epoch, "skipped", found.what, found.images)
                log.warning(
                    "step %d is skipped (%d of at most %d): %s", step, len(done.skipped) + 1, w.limit, found.what
                )
                return "skipped"
            raise self._diverged(found, step, f"; {w.limit} steps were skipped before")
        if w.on_nan == "rollback":
            if len(done.reorders) < w.limit:
                return self._roll_back(found, step, state)
            raise self._diverged(found, step, f"; after {w.limit} rollbacks")
        raise self._diverged(found, step)

    def _roll_back(self, found: finite.Finding, step: int, state: State[Any]) -> Outcome:
        """Load the newest checkpoint; from there on the images come in another order."""
        reorders = state.incidents.reorders
        if not self._has_checkpoint():
            raise self._diverged(found, step, "; there is no checkpoint to go back to")
        self.saver.load_newest(state)
        back = state.position.step
        state.incidents = replace(state.incidents, reorders=(*reorders, back))
        self.monitor.rewind(back)
        detail = {"diverged_at": step}
        self.monitor.incident(back, state.position.epoch, ROLLED_BACK, found.what, found.images, **detail)
        count, limit = len(reorders) + 1, self.watching.limit
        _warn("step %d: %s; back to step %d (%d of at most %d times)", step, found.what, back, count, limit)
        return "rolled back"

    def _diverged(self, found: finite.Finding, step: int, more: str = "") -> Diverged:
        images = f"images {some(list(found.images), 2)}" if found.images else self.saver.folder
        got = f"step {step}: {found.what}{more}"
        return diverged(got, images, finite.advice(self.recipe, step), self.saver.kept())

    def _tell(self, found: finite.Finding, step: int, state: State[Any]) -> None:
        """Name the images of the step in the log, all of them, before the run ends."""
        if self.watching.on_nan == "stop":  # else what is done about it is told
            self.monitor.incident(step, state.position.epoch, "diverged", found.what, found.images)

    def _count_overflows(self, record: StepRecord) -> None:
        """With losses scaled a gradient may overflow now and then, not for ever. Raises: Diverged."""
        self.overflows = self.overflows + 1 if record.overflowed else 0
        if self.overflows >= OVERFLOWS:
            what = f"infinite gradients in {self.overflows} steps on end, however small the loss scale"
            raise self._diverged(finite.Finding(what=what, images=(), spoiled=True), record.step)

    def _has_checkpoint(self) -> bool:
        """The main process looks: by the time another does, there may be one."""
        return bool(distributed.broadcast_object(self.saver.newest() is not None))

    def _too_many(self, state: State[Any]) -> bool:
        return len(state.incidents.unreadable) > self.recipe.data.skip_bad_images

    def _check_unreadable(self, state: State[Any]) -> None:
        if (error := incidents.too_many(state.incidents, self.recipe.data.skip_bad_images)) is not None:
            raise error


def gathered(state: State[Any], batches: Sequence[HostBatch]) -> incidents.Incidents:
    """The incidents with the unreadable images of every process's batches; all processes call it."""
    mine = tuple(one for batch in batches for one in batch.bad)
    everyone = distributed.gather_objects(mine)
    return state.incidents.with_unreadable([one for rank in everyone if isinstance(rank, tuple) for one in rank])


def _warn(text: str, *values: object) -> None:
    if distributed.is_main():
        log.warning(text, *values)
