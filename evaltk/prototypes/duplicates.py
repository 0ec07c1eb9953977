"""Sets of duplicate prototypes under four definitions of "remove duplicates"; exact and blockwise.

    leader         scan in order: a free row becomes a leader and takes all free rows above the threshold (primary)
    first-seen     a row is unique if no earlier row is above the threshold; the sets overlap
    components     connected components (single linkage)
    largest-first  leader, scanning rows by descending number of duplicates

The number of unique rows satisfies components <= first-seen <= leader, the size of the largest set
leader <= first-seen <= components.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Table 4, Figures 6 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from evaltk.errors import SettingsError, nearest
from evaltk.prototypes.graph import Array, Directions, Pairs, count_edges, join

Method = Literal["leader", "first-seen", "components", "largest-first"]
METHODS: tuple[Method, ...] = get_args(Method)
HEAD = 1_024  # rows searched for leaders at a time
CHUNK = 4_096  # rows compared with these leaders at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateSets:
    """Duplicate sets at one threshold.

    Attributes:
        owner: [K] int64, the row that each row is a duplicate of: its leader, the smallest row of its component, or
            (first-seen) the first row above the threshold; itself if unique.
        sizes: [num_unique] int64, descending: size of each set, owner included. first-seen: each unique row and its
            duplicates.
        largest: size of the largest set; for first-seen, whose sets overlap, over all rows, not just unique ones.
    """

    owner: np.ndarray
    sizes: np.ndarray
    largest: int

    @property
    def num_unique(self) -> int:
        """Number of rows that remain after removing duplicates."""
        return len(self.sizes)


def duplicate_sets(
    prototypes: Array, threshold: float, *, method: Method = "leader", device: str = "cpu"
) -> DuplicateSets:
    """Sets of prototypes whose cosine is greater than the threshold.

    Args:
        prototypes: [K, p], effective rows w; only their directions matter.
        threshold: in (-1, 1); the comparison is strict, on float64 cosines summed in a fixed order.
        method: ``leader``, ``first-seen``, ``components`` or ``largest-first``.

    Raises: SettingsError: a threshold or method out of range. DataError: rows without a direction (named by index).
    """
    return readings(prototypes, (threshold,), methods=(method,), device=device)[method, threshold]


def readings(
    prototypes: Array | Directions,
    thresholds: Sequence[float],
    *,
    methods: Sequence[Method] = METHODS,
    device: str = "cpu",
) -> dict[tuple[Method, float], DuplicateSets]:
    """Several methods at several thresholds: {(method, threshold): sets}. Args, Raises: as in `duplicate_sets`."""
    for threshold in thresholds:
        check_threshold(threshold)
    for method in methods:
        if method not in METHODS:
            do = nearest(str(method), METHODS)
            raise SettingsError(wanted="a duplicate method", got=repr(method), where="method", do=do)
    directions = prototypes if isinstance(prototypes, Directions) else Directions(prototypes, device=device)
    sets: dict[tuple[Method, float], DuplicateSets] = {}
    pairs: list[Pairs | None] = [None] * len(thresholds)
    if {"first-seen", "largest-first"} & set(methods):
        pairs = list(count_edges(directions, thresholds))
    for threshold, counted in zip(thresholds, pairs, strict=True):
        owner = None
        if {"leader", "components"} & set(methods):
            owner = scan(directions, threshold)
        for method in methods:
            if method == "leader" and owner is not None:
                sets[method, threshold] = _partition(owner)
            elif method == "components" and owner is not None:
                sets[method, threshold] = _partition(join(directions, threshold, owner))
            elif counted is not None:
                group = _first_seen if method == "first-seen" else _largest_first
                sets[method, threshold] = group(directions, threshold, counted)
    return sets


def check_threshold(threshold: float, where: str = "threshold") -> None:
    """Raises: SettingsError: a threshold outside (-1, 1)."""
    if not -1.0 < threshold < 1.0:
        raise SettingsError(
            wanted="a cosine in (-1, 1)", got=str(threshold), where=where, do="use 0.9, as in the paper"
        )


def scan(directions: Directions, threshold: float, order: np.ndarray | None = None) -> np.ndarray:
    """The leader of each row [K] int64, scanning in `order` [K] (default: by index).

    `HEAD` rows at a time are searched for leaders, which are compared with all rows still free: the cost is the number
    of leaders times the number of free rows, not the number of pairs.
    """
    ids = np.arange(len(directions)) if order is None else np.asarray(order, dtype=np.int64)
    rows = directions.unit if order is None else directions.unit[torch.from_numpy(ids).to(directions.unit.device)]
    owner = np.empty(len(directions), dtype=np.int64)
    while len(ids):
        head = ids[:HEAD]
        block = directions.similarities(rows[: len(head)], rows[: len(head)])
        edge = directions.edges(block, head, head, threshold).cpu().numpy() > 0
        leads = _scan_head(edge)
        owner[head] = head[leads]
        leaders = np.flatnonzero(leads == np.arange(len(head)))
        ids, remaining = ids[len(head) :], rows[len(head) :]
        vectors = rows[torch.from_numpy(leaders).to(rows.device)]
        taken = np.zeros(len(ids), dtype=bool)
        for start in range(0, len(ids), CHUNK):
            block = directions.similarities(remaining[start : start + CHUNK], vectors)  # [c, leaders]
            near = (block.amax(dim=1) > threshold - directions.margin).nonzero().flatten()
            if not len(near):
                continue
            at = start + near.cpu().numpy()
            edge_of = directions.edges(block[near], ids[at], head[leaders], threshold)
            has_leader = (edge_of.amax(dim=1) > 0).cpu().numpy()
            first = edge_of.argmax(dim=1).cpu().numpy()  # the first of equal values: the earliest leader
            owner[ids[at[has_leader]]] = head[leaders[first[has_leader]]]
            taken[at[has_leader]] = True
        rows = remaining[torch.from_numpy(np.flatnonzero(~taken)).to(remaining.device)] if taken.any() else remaining
        ids = ids[~taken]
    return owner


def _scan_head(edge: np.ndarray) -> np.ndarray:
    """Position of the leader of each of n rows [n], from their edges bool [n, n]."""
    free = np.ones(len(edge), dtype=bool)
    leads = np.empty(len(edge), dtype=np.int64)
    for i in range(len(edge)):
        if free[i]:
            takes = edge[i] & free
            takes[i] = True
            leads[takes] = i
            free &= ~takes
    return leads


def _partition(owner: np.ndarray) -> DuplicateSets:
    sizes = np.unique(owner, return_counts=True)[1]
    return DuplicateSets(owner=owner, sizes=np.sort(sizes)[::-1].copy(), largest=int(sizes.max()))


def _first_seen(directions: Directions, threshold: float, counted: Pairs) -> DuplicateSets:
    unique = counted.earliest == np.arange(len(directions))
    sizes = np.sort(counted.degree[unique] + 1)[::-1].copy()
    return DuplicateSets(owner=counted.earliest, sizes=sizes, largest=int(counted.degree.max()) + 1)


def _largest_first(directions: Directions, threshold: float, counted: Pairs) -> DuplicateSets:
    return _partition(scan(directions, threshold, np.argsort(-counted.degree, kind="stable")))


def order_sensitivity(
    directions: Directions, threshold: float, *, generator: torch.Generator, permutations: int
) -> tuple[np.ndarray, np.ndarray]:
    """(unique rows, largest set) [permutations] int64 of `leader` on random row orders."""
    unique, largest = np.empty(permutations, dtype=np.int64), np.empty(permutations, dtype=np.int64)
    for n in range(permutations):
        order = torch.randperm(len(directions), generator=generator).numpy()
        sets = _partition(scan(directions, threshold, order))
        unique[n], largest[n] = sets.num_unique, sets.largest
    return unique, largest
