"""Weighted k-nearest-neighbour classification on frozen features, as in DINO.

Protocol: dino/eval_knn.py:126-183. A single pass over the bank serves every k and temperature.

The confidence of a prediction is its class's share of the votes (the original has none): the sum of
exp(similarity / temperature) over the neighbours of that class, divided by the sum over all k neighbours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from evaltk import settings_rules
from evaltk.bench import Bench, Extracts, Need, Outcome, Protocol, of_all_splits, unreadable
from evaltk.data import sanity
from evaltk.data.images import Dataset
from evaltk.errors import SettingsError
from evaltk.types import DeviationKind, Features, Recipe, Score

if TYPE_CHECKING:
    import numpy as np
    import torch

NEED = Need(recipe=Recipe(), view="eval")  # the class token after the final norm, under DINO's transform
TIMED, TIMED_QUERIES = 16_384, 512  # images of the bank and queries that `estimate` times
VOTES = 1 << 22  # votes (queries x classes) that exist at a time, for each k


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the k-NN protocol; the defaults are the paper's sweep.

    Attributes:
        k: numbers of neighbours (DINO: 10 20 100 200, dino/eval_knn.py:194; we add 5 and 50); those beyond the number
            of training images are left out.
        temperature: one or more; votes are exp(similarity / temperature) (0.07, dino/eval_knn.py:196).
        backend: exact search by torch, or by faiss if that extra is installed.
        choose: number of training images to choose k on by leave-one-out (0: do not choose).
    """

    k: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    temperature: tuple[float, ...] = (0.07,)
    backend: Literal["torch", "faiss"] = "torch"
    choose: int = 5000

    def __post_init__(self) -> None:
        rules = {
            "k": (not self.k or min(self.k) < 1, "numbers of neighbours >= 1"),
            "temperature": (
                not self.temperature or not all(0 < t < math.inf for t in self.temperature),
                "temperatures > 0",
            ),
            "choose": (self.choose < 0, ">= 0"),
        }
        settings_rules.check("knn", self, rules)


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The same feature of both splits."""
    return of_all_splits(dataset, bench.class_feature(NEED))


def check(dataset: Dataset, settings: Settings) -> None:
    """Checks that need no features. Raises: SettingsError: every k is larger than the bank."""
    _fitting(settings, len(dataset.train), dataset)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """Top-1 and top-5 for every k and temperature; top-1 and calibration at the best k (as in the paper) and chosen k.

    The best k is the best on the reported split; the chosen one is the best on training images, by leave-one-out.
    Confidences are kept for these two.

    A k larger than the bank is left out, with a note.

    Raises: SettingsError: every k is larger than the bank. DataError: features that are not finite, zero, or all the
        same.
    """
    import torch

    bank, queries = (bench.features(split, bench.class_feature(NEED)) for split in (dataset.train, dataset.test))
    asked, settings = settings.k, _fitting(settings, len(bank.x), dataset)
    sanity.check_varied(bank.x, f"{dataset.name} {bank.key.split}")
    num_classes = len(dataset.train.classes)
    near, labels = _neighbours(bank, queries, settings, bench.device)
    ranks, predictions = rank_neighbours(near, labels, torch.from_numpy(queries.y), settings, num_classes)
    scores = _sweep(dataset, ranks, settings) + _best(dataset, ranks, settings)
    left = [k for k in asked if k not in settings.k]
    notes: tuple[str, ...] = (
        (f"k = {' '.join(map(str, left))} left out: {dataset.train.name} has {len(bank.x)} images",) if left else ()
    )
    notes += sanity.copies(near[:, 0].numpy())
    if settings.choose and max(settings.k) < len(bank.x):
        scores += _chosen(bench, dataset, bank, ranks, settings, num_classes)
    elif settings.choose:
        notes += (f"k not chosen on training images: k = {max(settings.k)} needs more than {len(bank.x)} of them",)
    arrays = {f"k{k}_t{t!r}": p.numpy().astype("int32") for (k, t), p in predictions.items()}
    calibration, confidences = _calibration(dataset, scores, near, labels, predictions, queries.y)
    return Outcome(
        scores=scores + calibration,
        predictions={"target": queries.y} | arrays | confidences,
        deviations=unreadable(bank, queries),
        notes=notes,
    )


def estimate(bench: Bench, dataset: Dataset, settings: Settings, an_image: float | None) -> float | None:
    """Seconds of the search, from that of some queries in some of the bank. an_image: not needed."""
    from evaltk import neighbours
    from evaltk.features import noise

    num_bank, num_queries = len(dataset.train), len(dataset.test) + min(settings.choose, len(dataset.train))
    (bank,) = noise.features(
        min(num_bank, TIMED),
        noise.widths(bench.backbone, bench.transform(NEED.view), (bench.class_feature(NEED).recipe,)),
        len(dataset.train.classes),
    )
    queries = bank.x[: min(num_queries, TIMED_QUERIES)]
    k = min(max(settings.k), len(bank.x))
    started = time.perf_counter()
    neighbours.search(queries, bank.x, k, backend=settings.backend, device=bench.device)
    return (time.perf_counter() - started) * num_queries / len(queries) * num_bank / len(bank.x)


def _fitting(settings: Settings, num_bank: int, dataset: Dataset) -> Settings:
    """The settings with those k that the bank has neighbours for. Raises: SettingsError: none is left."""
    kept = tuple(k for k in settings.k if k <= num_bank)
    if not kept:
        limited = any(deviation.kind is DeviationKind.SMOKE_TEST for deviation in dataset.deviations)
        raise SettingsError(
            wanted=f"k <= {num_bank}, the images of {dataset.name} {dataset.train.name}",
            got=f"k = {min(settings.k)}",
            where="--knn.k, --limit" if limited else "--knn.k",
            do="--knn.k 1" + (f", or --limit {min(settings.k)} or more" if limited else ""),
        )
    return replace(settings, k=kept)


def knn_votes(
    bank: torch.Tensor,
    labels: torch.Tensor,
    queries: torch.Tensor,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
) -> dict[int, torch.Tensor]:
    """Votes {k: [N, C] float64}: exp(cosine / temperature) summed per class over the k nearest neighbours.

    Rows are divided by their largest weight, which changes no prediction; exp(1 / temperature) could overflow.

    Args:
        bank: [M, D]. labels: [M] int64 in [0, C). queries: [N, D]. Rows need not be normalised.

    Source: dino/eval_knn.py:143-173. Neighbours are sorted by descending similarity, then ascending index.
    """
    from evaltk import neighbours

    similarity, index = neighbours.search(queries, bank, max(ks))
    return count_votes(similarity, labels[index], ks, temperature, num_classes)


def count_votes(
    similarity: torch.Tensor, labels: torch.Tensor, ks: Sequence[int], temperature: float, num_classes: int
) -> dict[int, torch.Tensor]:
    """{k: votes [N, C] float64} from sorted neighbours: similarity [N, K], their labels [N, K], K >= max(ks).

    The largest similarity of a row is subtracted first, so that exp cannot overflow. Votes have the same bits on every
    processor, so ties between classes are the same everywhere; they go to the smaller id.
    """
    import torch

    from evaltk import fixed_exp

    s = similarity.double()
    weights = fixed_exp.exp((s - s[:, :1]) / temperature)
    votes = torch.zeros(len(s), num_classes, dtype=torch.float64, device=s.device)
    votes_at, start = {}, 0
    for k in sorted(set(ks)):
        votes.scatter_add_(1, labels[:, start:k], weights[:, start:k])
        votes_at[k], start = votes.clone(), k
    return votes_at


def classify(
    bank: Features, queries: Features, settings: Settings, num_classes: int, device: str
) -> tuple[dict[tuple[int, float], torch.Tensor], dict[tuple[int, float], torch.Tensor]]:
    """({(k, temperature): rank of the true class [N]}, {(k, temperature): predicted class [N]})."""
    import torch

    similarity, labels = _neighbours(bank, queries, settings, device)
    return rank_neighbours(similarity, labels, torch.from_numpy(queries.y), settings, num_classes)


def _neighbours(
    bank: Features, queries: Features, settings: Settings, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(similarity [N, K], class [N, K] int64) of the nearest of the bank, K the largest k."""
    import torch

    from evaltk import neighbours

    similarity, index = neighbours.search(queries.x, bank.x, max(settings.k), backend=settings.backend, device=device)
    return similarity, torch.from_numpy(bank.y)[index]


def vote_shares(
    similarity: torch.Tensor, labels: torch.Tensor, predicted: torch.Tensor, k: int, temperature: float
) -> torch.Tensor:
    """Each predicted class's share of the votes of the k nearest: float32 [N] in (0, 1].

    Args:
        similarity: [N, K >= k], sorted. labels: int64 [N, K]. predicted: int64 [N], as in `rank_neighbours`.

    Like the votes they have the same bits on every processor.
    """
    from evaltk import fixed_exp, fixed_order

    s = similarity[:, :k].double()
    weights = fixed_exp.exp((s - s[:, :1]) / temperature)
    own = fixed_order.dot(weights, (labels[:, :k] == predicted[:, None]).double())
    return (own / fixed_order.dot(weights, weights.new_ones(1))).float()


def rank_neighbours(
    similarity: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor, settings: Settings, num_classes: int
) -> tuple[dict[tuple[int, float], torch.Tensor], dict[tuple[int, float], torch.Tensor]]:
    """`classify` from sorted neighbours: similarity [N, K], their labels [N, K], true classes [N]."""
    import torch

    from evaltk.metrics.classification import rank_of_label

    ranks: dict[tuple[int, float], list[torch.Tensor]] = {}
    predictions: dict[tuple[int, float], list[torch.Tensor]] = {}
    chunk = max(1, VOTES // num_classes)
    for start in range(0, len(similarity), chunk):
        rows = slice(start, start + chunk)
        for t in dict.fromkeys(settings.temperature):
            votes = count_votes(similarity[rows], labels[rows], settings.k, t, num_classes)
            for k, v in votes.items():
                ranks.setdefault((k, t), []).append(rank_of_label(v, targets[rows]))
                predictions.setdefault((k, t), []).append(v.argmax(dim=1))
    return {at: torch.cat(r) for at, r in ranks.items()}, {at: torch.cat(p) for at, p in predictions.items()}


def most_right(ranks: Mapping[tuple[int, float], torch.Tensor]) -> tuple[int, float]:
    """The (k, temperature) with the highest top-1; ties go to the smallest k, then the first temperature."""
    return max(ranks, key=lambda at: (int((ranks[at] == 0).sum()), -at[0]))


def _score(dataset: Dataset, rank: torch.Tensor, metric: str, top: int, **at: object) -> Score:
    from evaltk.metrics.scores import share

    return share(dataset, metric, int((rank < top).sum()), len(rank), at)


def _sweep(dataset: Dataset, ranks: dict[tuple[int, float], torch.Tensor], settings: Settings) -> tuple[Score, ...]:
    scores: list[Score] = []
    for k, t in ranks:
        scores.append(_score(dataset, ranks[k, t], "top1", 1, k=k, temperature=t))
        # k < 5 neighbours vote for at most k classes (dino/eval_knn.py:172).
        scores.append(_score(dataset, ranks[k, t], "top5", min(5, k), k=k, temperature=t))
    return tuple(scores)


def _best(dataset: Dataset, ranks: dict[tuple[int, float], torch.Tensor], settings: Settings) -> tuple[Score, ...]:
    k, t = most_right(ranks)
    return (_score(dataset, ranks[k, t], "top1_best_k", 1, k=k, temperature=t, chosen_on="the reported split"),)


def _calibration(
    dataset: Dataset,
    scores: tuple[Score, ...],
    similarity: torch.Tensor,
    labels: torch.Tensor,
    predictions: Mapping[tuple[int, float], torch.Tensor],
    target: np.ndarray,
) -> tuple[tuple[Score, ...], dict[str, np.ndarray]]:
    """(calibration errors at the best and the chosen k, {array name: confidences [N] float32})."""
    from evaltk.metrics.scores import calibration_error

    errors: list[Score] = []
    arrays: dict[str, np.ndarray] = {}
    for score in scores:
        metric = {"top1_best_k": "ece_best_k", "top1_chosen_k": "ece_chosen_k"}.get(score.metric)
        if metric is None:
            continue
        k, t = next(at for at in predictions if at == (score.at["k"], score.at["temperature"]))
        predicted = predictions[k, t]
        confidence = vote_shares(similarity, labels, predicted, k, t).cpu().numpy()
        arrays[f"k{k}_t{t!r}_confidence"] = confidence
        errors.append(calibration_error(dataset, metric, confidence, predicted.cpu().numpy() == target, score.at))
    return tuple(errors), arrays


def _chosen(
    bench: Bench,
    dataset: Dataset,
    bank: Features,
    ranks: dict[tuple[int, float], torch.Tensor],
    settings: Settings,
    num_classes: int,
) -> tuple[Score, ...]:
    """The score at the (k, temperature) that is best on training images by leave-one-out."""
    import numpy as np
    import torch

    from evaltk import neighbours

    sample = torch.randperm(len(bank.x), generator=bench.generator("knn", "choose", dataset.name))[: settings.choose]
    held = np.sort(sample.numpy())
    similarity, index = neighbours.search(
        np.asarray(bank.x[held]), bank.x, max(settings.k) + 1, backend=settings.backend, device=bench.device
    )
    own = index == torch.from_numpy(held)[:, None]
    own[:, -1] |= ~own.any(dim=1)  # the image itself is missing among duplicates of it: drop the last neighbour instead
    keep = ~own
    width = index.shape[1] - 1
    similarity, index = similarity[keep].view(-1, width), index[keep].view(-1, width)
    y = torch.from_numpy(bank.y)
    held_ranks, _ = rank_neighbours(similarity, y[index], y[held], settings, num_classes)
    k, t = most_right(held_ranks)
    where = f"{len(held)} images of {dataset.train.name}, left out one by one"
    return (_score(dataset, ranks[k, t], "top1_chosen_k", 1, k=k, temperature=t, chosen_on=where),)


PROTOCOL = Protocol(
    name="knn",
    version=1,
    kind="images",
    settings=Settings,
    run=run,
    doc=__doc__,
    check=check,
    extracts=extracts,
    estimate=estimate,
    chooses_feature=True,
)
