"""k-NN accuracy by prototype precision: top-1 per percentile bin of kappa (Figure 2).

Protocol: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Figure 2. An image has the precision kappa = ||w||/tau of
its highest-scoring prototype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evaltk.bench import Bench, Extracts, Need, Outcome, Protocol, of_all_splits
from evaltk.data.images import Dataset
from evaltk.errors import DataError, SettingsError
from evaltk.types import Recipe, Score

if TYPE_CHECKING:
    import numpy as np

    from evaltk.prototypes.mixture import Mixture
    from evaltk.types import Checkpoint

NEED = Need(recipe=Recipe(), view="eval")  # the class token after the final norm, under DINO's transform
Formulation = Literal["auto", "linear", "cosine", "vmf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of Figure 2. The paper does not state bins and temperature: five bins, the final teacher temperature.

    Attributes:
        bins: number of percentile bins (5; the paper does not state its number).
        formulation: how images are scored; auto: as stated in the file, else linear.
        temperature: tau; the first one is primary (0.07, the final teacher temperature), the others are variants.
        centre: also report variants with the training centre, if the file contains it.
        k: numbers of neighbours; the best on the reported split is used, as in the paper.
        knn_temperature: temperature of the k-NN votes (0.07).
        permutations: number of random permutations of the rank correlation test.
    """

    bins: int = 5
    formulation: Formulation = "auto"
    temperature: tuple[float, ...] = (0.07, 0.1)
    centre: bool = True
    k: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    knn_temperature: float = 0.07
    permutations: int = 9_999

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise SettingsError(wanted=">= 2", got=str(self.bins), where="--precision.bins", do="use 5")
        if not self.temperature or min(*self.temperature, self.knn_temperature) <= 0:
            got = f"{self.temperature}, {self.knn_temperature}"
            raise SettingsError(wanted="temperatures > 0", got=got, where="--precision.temperature", do="use 0.07")
        if not self.k or min(self.k) < 1:
            got = str(self.k)
            do = "use e.g. --precision.k 10 20"
            raise SettingsError(wanted="numbers of neighbours >= 1", got=got, where="--precision.k", do=do)
        if self.permutations < 1:
            got = str(self.permutations)
            raise SettingsError(wanted=">= 1", got=got, where="--precision.permutations", do="use 9999")


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The same feature of both splits."""
    return of_all_splits(dataset, NEED)


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Check before any image is read. Raises: CheckpointError: the file has no head."""
    from evaltk.prototypes.head import head_of

    head_of(checkpoint)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """k-NN top-1 per bin, and Spearman's rho between precision and correctness, for every variant of the scores.

    Raises: CheckpointError: no head in the file. DataError: fewer images than bins. SettingsError: k larger than the
        bank.
    """
    import numpy as np

    from evaltk.prototypes import mixture
    from evaltk.prototypes.head import head_of
    from protocols.prototypes.usage import variants

    head = head_of(bench.checkpoint, bench.device)
    queries = bench.features(dataset.test, NEED)
    if len(queries.x) < settings.bins:
        raise DataError(
            wanted=f"at least one image per bin, {settings.bins} or more",
            got=f"{len(queries.x)} images",
            where=f"{dataset.name} {dataset.test.name}",
            do=f"use --precision.bins {max(2, len(queries.x))}, or a larger dataset",
        )
    mixtures, notes = variants(bench, head, settings.formulation, settings.temperature, settings.centre)
    correct, k = _correct(bench, dataset, settings)
    scores: list[Score] = []
    arrays: dict[str, np.ndarray] = {"correct": correct}
    for m, used in zip(mixtures, mixture.use(head, queries.x, mixtures), strict=True):
        kappa = m.kappa.cpu().numpy()[used.assigned]
        of_variant, note = _variant(bench, dataset, settings, kappa, correct, m, k, len(np.unique(used.assigned)))
        scores += of_variant
        notes += (note,) if note and m is mixtures[0] else ()
        name = f"t{m.temperature:g}_{'with' if m.centred else 'without'}"
        arrays |= {f"kappa_{name}": kappa.astype(np.float32), f"assigned_{name}": used.assigned.astype(np.int32)}
    overall = _top1(dataset, correct, {"k": k, "chosen_on": "the reported split"}, "top1_best_k")
    return Outcome(scores=(overall, *scores), predictions=arrays, notes=tuple(dict.fromkeys(notes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Percentile bins: edges [B + 1], and the bin of each value [N] int64."""

    edges: np.ndarray
    of: np.ndarray


def percentile_bins(values: np.ndarray, bins: int) -> Bins | None:
    """Bins [lo, hi) between linear percentiles, the last one closed; equal values share a bin.

    Ties may leave a bin empty. None if the values [N] are constant up to rounding and have no percentiles.
    """
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    if values.max() - values.min() <= 1e-5 * abs(values).max():
        return None
    edges = np.percentile(values, np.linspace(0, 100, bins + 1))
    return Bins(edges=edges, of=np.clip(np.searchsorted(edges[:-1], values, side="right") - 1, 0, bins - 1))


def _correct(bench: Bench, dataset: Dataset, settings: Settings) -> tuple[np.ndarray, int]:
    """(whether k-NN is correct [N] bool, the k): bank: the training split, k: the best on the reported split."""
    from protocols import knn

    bank, queries = (bench.features(split, NEED) for split in (dataset.train, dataset.test))
    fitting = tuple(k for k in settings.k if k <= len(bank.x))
    if not fitting:
        raise SettingsError(
            wanted=f"k <= {len(bank.x)}, the images of {dataset.name} {dataset.train.name}",
            got=f"k = {min(settings.k)} at least",
            where="--precision.k",
            do=f"use a k of at most {len(bank.x)}",
        )
    knn_settings = knn.Settings(k=fitting, temperature=(settings.knn_temperature,))
    ranks, _ = knn.classify(bank, queries, knn_settings, len(dataset.train.classes), bench.device)
    k, t = knn.most_right(ranks)
    return (ranks[k, t] == 0).numpy(), k


def _variant(
    bench: Bench,
    dataset: Dataset,
    settings: Settings,
    kappa: np.ndarray,
    correct: np.ndarray,
    mixture: Mixture,
    k: int,
    num_used: int,
) -> tuple[list[Score], str]:
    """(scores of one variant, a note if bins are missing)."""
    import numpy as np

    from evaltk.metrics.statistics import spearman_permutation
    from evaltk.seeding import derive

    at = mixture.at() | {"k": k}
    bins = percentile_bins(kappa, settings.bins)
    if bins is None:
        why = "all used prototypes have the same norm" if num_used > 1 else "all images are assigned to one prototype"
        value = f"kappa {float(kappa[0]):.4g} at tau {mixture.temperature:g}"
        return [], f"no percentiles of precision: {why} ({value}); the published DINO ViT-B/16 also has equal norms"
    scores: list[Score] = []
    for b in range(settings.bins):
        inside = bins.of == b
        if inside.any():
            low, high = (float(f"{edge:.6g}") for edge in bins.edges[b : b + 2])
            of_bin = at | {"bin": b + 1, "bins": settings.bins, "kappa_from": low, "kappa_to": high}
            scores.append(_top1(dataset, correct[inside], of_bin, "top1_bin"))
    note = ""
    if len(scores) < settings.bins:
        note = f"{settings.bins - len(scores)} precision bins are empty: too many images share a prototype norm"
    if 0 < correct.sum() < len(correct):
        rng = np.random.default_rng(derive(bench.seed, "precision", dataset.name, mixture.temperature, mixture.centred))
        rank = spearman_permutation(kappa, correct.astype(np.float64), rng=rng, permutations=settings.permutations)
        test = {"p_value": float(f"{rank.p_value:.4g}"), "permutations": settings.permutations}
        scores.append(
            Score(
                dataset=dataset.name,
                split=dataset.test.name,
                metric="precision_rho",
                value=rank.rho,
                n=len(kappa),
                at=at | test,
            )
        )
    return scores, note


def _top1(dataset: Dataset, correct: np.ndarray, at: dict[str, object], metric: str) -> Score:
    from evaltk.metrics.scores import share

    return share(dataset, metric, int(correct.sum()), len(correct), at)


PROTOCOL = Protocol(
    name="precision",
    version=1,
    kind="images",
    settings=Settings,
    run=run,
    doc=__doc__,
    check_checkpoint=check_checkpoint,
    extracts=extracts,
)
