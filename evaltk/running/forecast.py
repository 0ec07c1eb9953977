"""What is told of a plan beforehand: jobs, readings, features, bytes, memory and seconds, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# cached: finished, in the cache. begun: some shards are there. earlier: an earlier pass of this plan makes it.
State = Literal["cached", "begun", "missing", "earlier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesToBe:
    """One feature of a split: its recipe, whether it is there, and the bytes that it would add to the cache."""

    recipe: str
    state: State
    num_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an estimate is from: images decoded and put through the net, and what one took, in seconds.

    Attributes:
        batch: images a forward pass in the run itself. workers: decoding processes there. memory_of: which memory.
    """

    decoded: int
    decoding_seconds: float
    in_a_batch: int
    net_seconds: float
    batch: int
    workers: int
    memory_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One pass over a split for one preprocessing.

    Attributes:
        images: of the split. left: those still to be put through the net, None where a protocol reads them in its own
            way, which is not estimated. looks: the preprocessing in words.
        seconds, memory, measured: None where there is nothing to do, or nothing could be measured.
        room: bytes needed for a while beside what the cache has had before.
    """

    split: str
    images: int
    left: int | None = None
    looks: str = ""
    features: tuple[FeaturesToBe, ...] = ()
    seconds: float | None = None
    memory: int | None = None
    measured: Measured | None = None
    room: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobToBe:
    """One result: its file, whether it is done, and whether the estimate covers its `extraction` or `nothing` of it.

    Attributes:
        seconds: of what the protocol does beside the extraction; None: not estimated, or done.
    """

    protocol: str
    path: str
    done: bool
    covers: Literal["extraction", "nothing"]
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One checkpoint on one dataset. notes: why something is not estimated."""

    checkpoint: str
    dataset: str
    kind: str
    jobs: tuple[JobToBe, ...]
    readings: tuple[Reading, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """All of a plan.

    Attributes:
        loading: seconds that reading the checkpoints and building their nets took. free: bytes where the cache lies.
        spare: bytes of memory that a process could have, None where the system does not tell.
        room: bytes that the cache needs there at its peak, while shards are joined. Bytes and seconds are of what can
            be estimated.
    """

    pairs: tuple[Pair, ...]
    cache: str
    free: int
    loading: float
    spare: int | None = None

    @property
    def num_bytes(self) -> int:
        """To be stored."""
        return sum(f.num_bytes or 0 for p in self.pairs for r in p.readings for f in r.features)

    @property
    def room(self) -> int:
        """Needed in the cache at its peak."""
        stored = peak = 0
        for reading in (r for p in self.pairs for r in p.readings):
            peak = max(peak, stored + reading.room)
            stored += sum(f.num_bytes or 0 for f in reading.features)
        return peak

    @property
    def seconds(self) -> float:
        """For extraction, on one process, once everything is loaded."""
        return sum(r.seconds or 0.0 for p in self.pairs for r in p.readings)

    @property
    def own_seconds(self) -> float:
        """For what the protocols do beside the extraction, as far as it is estimated."""
        return sum(job.seconds or 0.0 for p in self.pairs for job in p.jobs)

    @property
    def memory(self) -> int | None:
        """At the peak of extraction."""
        return max((r.memory for p in self.pairs for r in p.readings if r.memory is not None), default=None)

    @property
    def fits(self) -> bool:
        """Whether there is room for the features, and memory on the host for extraction."""
        on_host = [
            r.memory or 0 for p in self.pairs for r in p.readings if r.measured and "resident" in r.measured.memory_of
        ]
        return self.room <= self.free and (self.spare is None or max(on_host, default=0) <= self.spare)
