"""Prototype analysis: duplicates under four definitions, the void set, and utilisation of the mixture by images.

Protocol: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Table 4, section 5.2, Figures 6 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaltk.bench import Bench, Extracts, Need, Outcome, of_all_splits
from evaltk.data.images import Dataset
from evaltk.types import Recipe, Score

if TYPE_CHECKING:
    import numpy as np

    from evaltk.models.heads import Head
    from evaltk.prototypes.duplicates import DuplicateSets
    from evaltk.prototypes.graph import Directions
    from evaltk.types import Checkpoint

from protocols.prototypes.settings import Reading, Settings

NEED = Need(recipe=Recipe(), view="eval")  # the class token after the final norm, under DINO's transform


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The same feature of both splits."""
    return of_all_splits(dataset, NEED)


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Check before any image is read. Raises: CheckpointError: the file has no head."""
    from evaltk.prototypes.head import head_of

    head_of(checkpoint)


def learns(settings: Settings) -> bool:
    """No: images are counted by component, whatever their class."""
    return False


def duplicate_sets(
    prototypes: np.ndarray, threshold: float, *, method: Reading = "leader", device: str = "cpu"
) -> DuplicateSets:
    """Sets of duplicates among prototypes [K, p] (array or tensor); see `evaltk.prototypes.duplicates`."""
    from evaltk.prototypes import duplicates

    return duplicates.duplicate_sets(prototypes, threshold, method=method, device=device)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """Duplicate prototypes, the verdict on the void set, and the use of the mixture by the training images.

    Raises: CheckpointError: no head in the file. DataError: prototypes without a direction (named by index).
    """
    from evaltk.prototypes.graph import Directions
    from evaltk.prototypes.head import head_of, other_branch
    from protocols.prototypes.usage import use_by_images

    head = head_of(bench.checkpoint, bench.device)
    directions = Directions(head.prototypes, device=bench.device)
    counter = _Counter(dataset=dataset.name, settings=settings)
    scores, sets, arrays = counter.count(directions, bench.checkpoint.branch, bench)
    notes = _notes_on_head(head, bench)
    if settings.other_branch:
        name, other, why = other_branch(bench.checkpoint)
        notes += (f"only one head in the file: {why}",) if other is None else ()
        if other is not None:
            scores += counter.count_other(Directions(other.prototypes, device=bench.device), name)
    features = bench.features(dataset.train, NEED)
    used = use_by_images(bench, dataset, settings, head, features, sets, directions)
    return Outcome(
        scores=scores + used.scores, predictions=arrays | dict(used.predictions), notes=notes + tuple(used.notes)
    )


def _notes_on_head(head: Head, bench: Bench) -> tuple[str, ...]:
    import torch

    weights = bench.checkpoint.head
    gains = None if weights is None else weights.tensors.get("prototypes.weight_g")
    negative = 0 if gains is None else int((gains < 0).sum())
    notes: tuple[str, ...] = (
        (f"{negative:,} prototypes have a negative gain g: w = g v/||v|| points opposite to v",) if negative else ()
    )
    if not torch.equal(head.patch_prototypes, head.prototypes):
        notes += ("the head has separate patch prototypes; only the class prototypes are analysed",)
    return notes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counter:
    """Counts duplicates and builds the scores."""

    dataset: str
    settings: Settings

    def count(
        self, directions: Directions, branch: str, bench: Bench
    ) -> tuple[tuple[Score, ...], DuplicateSets, dict[str, np.ndarray]]:
        """(scores, the primary sets, arrays for figures) of the evaluated head, the primary numbers first."""
        from evaltk.prototypes import duplicates, report

        s = self.settings
        counts = report.count_duplicates(
            directions,
            threshold=s.threshold,
            thresholds=s.thresholds,
            methods=s.readings,
            distance=s.distance,
            device=bench.device,
        )
        primary = counts.primary
        num = len(primary.owner)
        at = {"threshold": s.threshold, "reading": "leader", "branch": branch}
        scores = [
            self.score("unique_share", primary.num_unique / num, num, at),
            self.score("largest_share", primary.largest / num, num, at),
            self.score(f"unique_at_{s.threshold:g}_count", primary.num_unique, num, at),
            self.score(f"largest_at_{s.threshold:g}_count", primary.largest, num, at),
            self.score(
                "unique_share_by_distance",
                counts.unique_share_by_distance,
                num,
                at | {"threshold": 1 - s.distance, "distance": s.distance},
            ),
        ]
        arrays = {"owner": primary.owner.astype("int32")}
        for method in dict.fromkeys(("leader", *s.readings)):
            for t in s.sweep():
                at_threshold: dict[str, object] = {"threshold": t, "reading": method, "branch": branch}
                scores += self.counts(counts.sets[method, t], num, at_threshold)
                arrays[f"sizes_{method}_{t:g}"] = counts.sets[method, t].sizes.astype("int32")
        if s.permutations:
            stream = bench.generator("prototypes", "order")
            unique, largest = duplicates.order_sensitivity(
                directions, s.threshold, generator=stream, permutations=s.permutations
            )
            for name, values in (("unique_count", unique), ("largest_count", largest)):
                for end, value in (("min", values.min()), ("max", values.max())):
                    of_orders = at | {"orders": s.permutations}
                    scores.append(self.score(f"{name}_any_order_{end}", float(value), num, of_orders))
        return tuple(scores), primary, arrays

    def count_other(self, directions: Directions, branch: str) -> tuple[Score, ...]:
        """The same counts for the other branch's prototypes; metric names end with the branch's name."""
        from evaltk.prototypes import duplicates

        s = self.settings
        scores: list[Score] = []
        for (method, t), sets in duplicates.readings(directions, s.sweep(), methods=s.readings).items():
            at: dict[str, object] = {"threshold": t, "reading": method, "branch": branch}
            scores += self.counts(sets, len(sets.owner), at, f"_{branch}")
        return tuple(scores)

    def counts(self, sets: DuplicateSets, num: int, at: dict[str, object], end: str = "") -> list[Score]:
        """Unique rows and largest set: `unique_count` for leader, `unique_count_components` etc. for other methods."""
        by = "" if at["reading"] == "leader" else "_" + str(at["reading"]).replace("-", "_")
        return [
            self.score(f"unique_count{by}{end}", sets.num_unique, num, at),
            self.score(f"largest_count{by}{end}", sets.largest, num, at),
        ]

    def score(self, metric: str, value: float, num: int, at: dict[str, object]) -> Score:
        return Score(dataset=self.dataset, split="weights", metric=metric, value=float(value), n=num, at=at)
