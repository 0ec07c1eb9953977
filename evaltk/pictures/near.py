"""Neighbours by features: those of the images shown, the images that k-NN gets wrong with confidence, and the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from evaltk import neighbours
from evaltk.bench import Bench, Need
from evaltk.data.images import Split
from evaltk.errors import SettingsError
from evaltk.metrics.patches import components
from evaltk.pictures.images import Chosen
from evaltk.types import Features, Recipe
from protocols import knn

TEMPERATURE = 0.07  # of the votes, as in DINO's k-NN
PERPLEXITY = 30.0  # of t-SNE; fewer where there are few points
FEW = 3  # points a map needs at least
MapMethod = Literal["pca", "tsne", "umap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """An image that k-NN gets wrong: its row in `Chosen.judged`, the predicted class, its share of the votes, and the
    nearest images (rows of `Chosen.bank`, cosines)."""

    row: int
    predicted: int
    share: float
    rows: tuple[int, ...]
    cosines: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """What a checkpoint's features say.

    Attributes:
        rows, cosines: of the images shown, their nearest of `Chosen.bank` [S, n], the most similar first.
        wrong: the most confident first. correct, judged: how many were right, of how many; 0 of 0 without classes.
        k: neighbours that vote. features: of `Chosen.judged`, unit length [M, D]. labels: their classes [M].
    """

    rows: np.ndarray
    cosines: np.ndarray
    wrong: tuple[Wrong, ...]
    correct: int
    judged: int
    k: int
    features: np.ndarray
    labels: np.ndarray


def look(bench: Bench, chosen: Chosen, *, k: int, shown: int, wrong: int) -> Near:
    """Search, classify and keep.

    Args:
        k: neighbours that vote, fewer where there are fewer. shown: neighbours that are shown. wrong: mistakes kept.

    Raises: SettingsError: k below 1. DataError: unreadable images beyond those allowed, constant features.
    """
    if k < 1 or shown < 1:
        flag = "--k" if k < 1 else "--neighbours"
        raise SettingsError(wanted="1 or more", got=str(min(k, shown)), where=flag, do=f"{flag} 5")
    need = bench.class_feature(Need(recipe=Recipe()))
    for split in (chosen.bank, chosen.shown, chosen.judged):
        bench.prepare(split, (need,))
    bank, queries, judged = (bench.features(split, need) for split in (chosen.bank, chosen.shown, chosen.judged))
    places = _rows(bank, chosen.bank)
    cosines, rows = _nearest(queries, bank, shown, alone=chosen.alone, device=bench.device)
    mistakes, correct, used = _mistakes(bench, bank, judged, chosen, k, shown, wrong) if chosen.labelled else ([], 0, 0)
    x = np.asarray(judged.x, dtype=np.float64)
    return Near(
        rows=places[rows],
        cosines=cosines,
        wrong=tuple(mistakes),
        correct=correct,
        judged=len(judged.x) if chosen.labelled else 0,
        k=used,
        features=x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny),
        labels=judged.y,
    )


def _rows(found: Features, split: Split) -> np.ndarray:
    """Rows of the split that features belong to: unreadable images may have been left out."""
    place = {split.image_id(row): row for row in range(len(split))}
    return np.asarray([place[name] for name in found.ids], dtype=np.int64)


def _nearest(queries: Features, bank: Features, k: int, *, alone: bool, device: str) -> tuple[np.ndarray, np.ndarray]:
    """(cosines, rows) [Q, <= k] of the nearest in the bank; never the image itself where both are of one split."""
    width = min(len(bank.x), k + alone)
    similarity, index = neighbours.search(queries.x, bank.x, width, device=device)
    if not alone:
        return similarity.numpy(), index.numpy()
    number = {name: row for row, name in enumerate(bank.ids)}
    own = index == torch.tensor([number.get(name, -1) for name in queries.ids])[:, None]
    own[:, -1] |= ~own.any(dim=1)  # not in the bank, or behind others that equal it: drop the last one instead
    shape = (len(queries.x), width - 1)
    return similarity[~own].view(shape).numpy(), index[~own].view(shape).numpy()


def _mistakes(
    bench: Bench, bank: Features, judged: Features, chosen: Chosen, k: int, shown: int, keep: int
) -> tuple[list[Wrong], int, int]:
    cosines, rows = _nearest(judged, bank, max(k, shown), alone=chosen.alone, device=bench.device)
    used = min(k, rows.shape[1])
    if not used:
        return [], 0, 0
    labels = torch.from_numpy(np.asarray(bank.y))[torch.from_numpy(rows)]
    votes = knn.count_votes(torch.from_numpy(cosines), labels, [used], TEMPERATURE, len(chosen.bank.classes))[used]
    share, predicted = (votes / votes.sum(dim=1, keepdim=True)).max(dim=1)
    predicted = votes.argmax(dim=1)
    target = torch.from_numpy(np.asarray(judged.y))
    wrong = torch.nonzero(predicted != target)[:, 0]
    order = wrong[torch.sort(-share[wrong], stable=True).indices][:keep].tolist()
    own, places = _rows(judged, chosen.judged), _rows(bank, chosen.bank)
    kept = [
        Wrong(
            row=int(own[i]),
            predicted=int(predicted[i]),
            share=float(share[i]),
            rows=tuple(places[rows[i, :shown]].tolist()),
            cosines=tuple(cosines[i, :shown].tolist()),
        )
        for i in order
    ]
    return kept, len(target) - len(wrong), used


def flat(features: np.ndarray, method: MapMethod, seed: int) -> np.ndarray:
    """Features [N, D] as points [N, 2] float64, by PCA, scikit-learn's t-SNE or UMAP; both of these start from PCA.

    Raises: SettingsError: UMAP is not installed, or fewer than three points.
    """
    if len(features) < FEW:
        do = "--points 1000, or leave the map out with --pictures"
        raise SettingsError(wanted=f"{FEW} images or more for a map", got=str(len(features)), where="--data", do=do)
    if method == "umap":
        try:
            import umap
        except ImportError as error:
            do = "pip install 'evaltk[umap]', or --map tsne"
            raise SettingsError(wanted="umap-learn", got="not installed", where="--map umap", do=do) from error
        start = _plane(features)
        # Spectral starts differ from call to call where images have duplicates, and need four; noise: no axis is empty.
        start = start / max(float(np.abs(start).max()), 1e-12) * 10
        start += np.random.default_rng(seed).normal(scale=1e-3, size=start.shape)
        width = min(15, len(features) - 1)
        made = umap.UMAP(n_neighbors=width, init=start, random_state=seed, n_jobs=1).fit_transform(features)
        return np.asarray(made, dtype=np.float64)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
        made = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features.astype(np.float32))
        return np.asarray(made, dtype=np.float64)
    return _plane(features)


def _plane(features: np.ndarray) -> np.ndarray:
    """The first two principal components [N, 2], the second 0 where there is one only."""
    placed = components(features, 2).project(features)
    return placed if placed.shape[1] == 2 else np.pad(placed, ((0, 0), (0, 2 - placed.shape[1])))
