"""Utilisation of the mixture by images: scores, arrays, and the verdict on the void set.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), sections 3 and 5.2.
"""

from __future__ import annotations

import numpy as np

from evaltk.bench import Bench, Outcome
from evaltk.data.images import Dataset
from evaltk.metrics.clustering import Agreement, agreement, perplexity
from evaltk.metrics.statistics import spearman_permutation
from evaltk.models.heads import Head
from evaltk.prototypes import constant, mixture, mixture_fit, sharing, void
from evaltk.prototypes.constant import Constant
from evaltk.prototypes.duplicates import DuplicateSets
from evaltk.prototypes.graph import Directions
from evaltk.prototypes.head import formulation
from evaltk.prototypes.mixture import Mixture, Use
from evaltk.prototypes.mixture_fit import Fit, projection
from evaltk.prototypes.void import Verdict
from evaltk.seeding import derive
from evaltk.types import Features, Score
from protocols.prototypes import gallery as prototype_gallery
from protocols.prototypes.settings import Settings, varies

SPREAD_DIGITS = 6  # y has about seven significant digits


def use_by_images(
    bench: Bench,
    dataset: Dataset,
    settings: Settings,
    head: Head,
    features: Features,
    sets: DuplicateSets,
    directions: Directions,
) -> Outcome:
    """Measures of the mixture on the images of `features`, for every temperature, without and with the centre."""
    mixtures, notes = variants(bench, head, settings.formulation, settings.temperature, settings.centre)
    used = mixture.use(head, features.x, mixtures)
    agreements = [agreement(u.assigned, features.y, len(u.responsibility)) for u in used]
    scores = [s for m, u, a in zip(mixtures, used, agreements, strict=True) for s in _shared(dataset, m, u, a)]
    own = mixture_fit.fit(head, features.x, used[0].assigned, mixtures[0])
    scores += _fitted(bench, dataset, settings, mixtures[0], own)
    unit = directions.unit.cpu().numpy()
    verdict = void.find_void(
        unit, sets, own.counts, own.data_mean, threshold=settings.void_cosine, share=settings.void_share
    )
    n = len(features.x)
    scores += _void_scores(dataset, verdict, mixtures[0].at() | {"threshold": settings.threshold}, n)
    scores += _constant(dataset, constant.of_winners(head, features.x, mixtures[0], used[0]), mixtures[0].at(), n)
    arrays = _arrays(used[0], agreements[0], own, mixtures[0], unit) | _large_sets(verdict)
    arrays |= _shared_by_images(verdict, used[0], features, unit, sets)
    arrays["void"] = np.isin(sets.owner, [e.owner for e in verdict.void])
    if settings.gallery:
        arrays |= prototype_gallery.gallery(dataset.train, features, head, own, arrays, sets, settings)
    return Outcome(
        scores=tuple(scores), predictions=arrays, notes=(verdict.words, verdict.listed(settings.void_share), *notes)
    )


def variants(
    bench: Bench, head: Head, setting: str, temperatures: tuple[float, ...], centre: bool
) -> tuple[list[Mixture], tuple[str, ...]]:
    """Mixtures under the method's formulation, the primary one first, and notes on what decided it."""
    weights = bench.checkpoint.head
    assert weights is not None
    scoring, note = formulation(weights, setting)
    notes: tuple[str, ...] = (note,)
    centred = [False, True] if centre and head.center is not None else [False]
    if centre and head.center is None:
        notes += ("no variants with the centre: not in the file",)
    mixtures = [
        mixture.mixture(head, scoring=scoring, temperature=t, centred=c, centering=weights.centering)
        for c in centred
        for t in temperatures
    ]
    return mixtures, notes


def _score(dataset: Dataset, metric: str, value: float, n: int, at: dict[str, object]) -> Score:
    return Score(dataset=dataset.name, split=dataset.train.name, metric=metric, value=float(value), n=n, at=at)


def _shared(dataset: Dataset, mixture: Mixture, use: Use, agreement: Agreement) -> list[Score]:
    n, num = len(use.assigned), len(use.responsibility)
    used = int((use.counts() > 0).sum())
    values = {
        "used_share": used / num,
        "used_count": used,
        "dead_count": num - used,
        "perplexity_count": perplexity(use.responsibility),
        "effective_share": perplexity(use.responsibility) / num,
        "purity": agreement.purity,
        "nmi": agreement.nmi,
        "label_entropy_nats": agreement.label_entropy,
        "responsibility_entropy_nats": use.entropy,
        "log_likelihood_nats": float(use.log_likelihood.mean()),
    }
    return [_score(dataset, metric, value, n, mixture.at()) for metric, value in values.items()]


def _fitted(bench: Bench, dataset: Dataset, settings: Settings, mixture: Mixture, fit: Fit) -> list[Score]:
    """Directions and precisions against the images: means over images, and the rank correlation over prototypes."""
    at = mixture.at()
    n = int(fit.counts.sum())
    weight = fit.counts / n
    enough = fit.counts >= settings.min_images
    scores = [_score(dataset, "cosine_to_images", float(np.nansum(weight * fit.cosine)), n, at)]
    if not enough.any():
        return scores
    kappa = mixture.kappa.cpu().numpy()
    share, images = fit.counts[enough] / fit.counts[enough].sum(), int(fit.counts[enough].sum())
    at_enough = at | {"min_images": settings.min_images, "prototypes": int(enough.sum())}  # `at` is in a score already
    scores += [
        _score(dataset, "resultant_length", float(share @ fit.spread[enough]), images, at_enough),
        _score(dataset, "resultant_length_by_kappa", float(share @ fit.expected[enough]), images, at_enough),
    ]
    # Rounded, so that spreads that are equal up to rounding share a rank on every processor.
    spread = fit.spread[enough].round(SPREAD_DIGITS)
    if enough.sum() > 2 and varies(kappa[enough]) and varies(spread):
        rng = np.random.default_rng(derive(bench.seed, "prototypes", "precision", dataset.name))
        rank = spearman_permutation(kappa[enough], spread, rng=rng, permutations=999)
        scores.append(
            _score(
                dataset, "precision_rho", rank.rho, int(enough.sum()), at_enough | {"p_value": round(rank.p_value, 6)}
            )
        )
    return scores


def _void_scores(dataset: Dataset, verdict: Verdict, at: dict[str, object], n: int) -> list[Score]:
    """The verdict in numbers; without a set of duplicates a cosine of 0 and no images."""
    e, at = verdict.about, at | {"set": verdict.kind}
    values = {
        "void_share": e.share if e is not None and verdict.kind == "void" else 0.0,
        "void_sets_share": sum(one.share for one in verdict.void),
        "void_cosine": 0.0 if e is None else e.cosine,
        "void_images_count": 0 if e is None else e.images,
    }
    if e is not None:
        values["void_random_percentile"] = e.random_percentile
    if e is not None and np.isfinite(e.prototype_percentile):
        values["void_prototype_percentile"] = e.prototype_percentile
    unused = [s.share for s in verdict.sets if s.images == 0]
    values |= {"large_sets_count": len(verdict.sets), "large_unused_share": sum(unused)}
    return [_score(dataset, metric, value, n, at) for metric, value in values.items()]


def _large_sets(verdict: Verdict) -> dict[str, np.ndarray]:
    """One row a large set, the largest first."""
    return {
        "set_owner": np.array([s.owner for s in verdict.sets], dtype="int32"),
        "set_size": np.array([s.size for s in verdict.sets], dtype="int32"),
        "set_images": np.array([s.images for s in verdict.sets], dtype="int32"),
        "set_cosine": np.array([s.cosine for s in verdict.sets], dtype="float32"),
        "set_random_percentile": np.array([s.random_percentile for s in verdict.sets], dtype="float32"),
        "set_prototype_percentile": np.array([s.prototype_percentile for s in verdict.sets], dtype="float32"),
    }


def _constant(dataset: Dataset, found: Constant | None, at: dict[str, object], n: int) -> list[Score]:
    """The part of log C_p in the winning scores; nothing for scores without it."""
    if found is None:
        return []
    values = {"constant_share": found.share, "constant_decides_share": found.decides}
    return [_score(dataset, metric, value, n, at) for metric, value in values.items()]


def _shared_by_images(
    verdict: Verdict, use: Use, features: Features, unit: np.ndarray, sets: DuplicateSets
) -> dict[str, np.ndarray]:
    """Images of large sets by class, prototypes by class, and the map of similarities."""
    leaders = [s.owner for s in verdict.sets]
    used, effective = sharing.class_use(use.assigned, features.y)
    similarity, rows = sharing.similarity_map(unit, sets.owner)
    return {
        "set_classes": sharing.set_classes(sets.owner, leaders, use.assigned, features.y).astype("int32"),
        "class_prototypes": used.astype("int32"),
        "class_effective": effective.astype("float32"),
        "similarity": similarity,
        "similarity_rows": rows.astype("int32"),
    }


def _arrays(use: Use, agreement: Agreement, fit: Fit, mixture: Mixture, unit: np.ndarray) -> dict[str, np.ndarray]:
    """What figures are made of: one row a prototype, but for `assigned` (an image) and `projection_share`."""
    places, share = projection(unit)
    return {
        "assigned": use.assigned.astype("int32"),
        "counts": fit.counts.astype("int32"),
        "kappa": mixture.kappa.cpu().numpy().astype("float32"),
        "responsibility": use.responsibility.astype("float32"),
        "purity": agreement.cluster_purity.astype("float32"),
        "cosine_to_images": fit.cosine.astype("float32"),
        "spread": fit.spread.astype("float32"),
        "expected_spread": fit.expected.astype("float32"),
        "projection": places,
        "projection_share": share.astype("float32"),
    }
