"""Results -> figures: which figures a folder of results gives. Files are drawn one at a time; torch is not needed.

Figures that compare checkpoints hold those of one dataset and one protocol version; the others are one per checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaltk import results
from evaltk.errors import StorageError
from evaltk.types import Result, Score
from reports.figures import features, prototypes, scores, sharing
from reports.figures.style import Drawn, shown
from reports.figures.training_log import TrainingLog
from reports.table import percent

Arrays = Mapping[str, np.ndarray]


def of_results(
    found: Iterable[tuple[Path, Result]],
    *,
    logs: Mapping[str, TrainingLog] | None = None,
    complain: Callable[[StorageError], object] | None = None,
) -> Iterator[Drawn]:
    """Every figure that these results give, scores first; nothing for protocols that have no figures.

    Args:
        logs: training logs by the name of their run, for trajectories. complain: as in `of_analyses`.
    """
    known = list(found)
    yield from scores.of_results([result for _, result in known], logs=logs or {})
    yield from of_analyses(known, complain=complain)


def of_analyses(
    found: Iterable[tuple[Path, Result]],
    *,
    read: Callable[[Path], Arrays] = results.read_predictions,
    galleries: bool = True,
    complain: Callable[[StorageError], object] | None = None,
) -> Iterator[Drawn]:
    """Figures of prototypes, precision and features, by dataset.

    Args:
        read: gives the arrays beside a result. galleries: draw the images nearest to prototypes.
        complain: called for results that lack what a figure shows, which is left out; without it they are errors.

    Raises: StorageError.
    """
    groups: dict[tuple[str, str, str, int], list[tuple[Path, Result]]] = {}
    for path, result in found:
        if result.protocol in ("prototypes", "precision", *features.PROTOCOLS) or features.calibrated(result):
            key = result.protocol, result.data.name, result.data.fingerprint[:12], result.version
            groups.setdefault(key, []).append((path, result))
    names = [name for _, name, *_ in groups]
    for (protocol, short, fingerprint, _), members in groups.items():
        alone = names.count(short) <= len({key[0] for key in groups if key[1] == short})
        end = results.slug(short if alone else f"{short}-{fingerprint}")
        labelled = _labelled(members)
        if protocol in features.PROTOCOLS:
            for label, (path, result) in labelled.items():
                name = end if len(labelled) == 1 else f"{end}-{result.request[:6]}"
                drawn = features.of_result(protocol, label, result, read(path), name, complain)
                yield from _whole(drawn, [(path, result)], complain)
            continue
        if protocol in features.CALIBRATED:
            read_all = {label: (result, read(path)) for label, (path, result) in labelled.items()}
            yield from _whole(features.calibration(read_all, end, complain), members, complain)
            continue
        if protocol == "precision":
            yield from _whole(_precision(labelled, end), members, complain)
            continue
        yield from _whole(_compared(labelled, end), members, complain)
        arrays = {label: read(path) for label, (path, _) in labelled.items()}
        arrays = {label: beside for label, beside in arrays.items() if beside}
        if arrays:
            yield from _whole(_prototypes(arrays, members[0][1], end), members, complain)
        for label, beside in arrays.items():
            yield from _whole(_one(label, beside, end, galleries), [labelled[label]], complain)


def _whole(
    figures: Iterator[Drawn],
    members: Sequence[tuple[Path, Result]],
    complain: Callable[[StorageError], object] | None,
) -> Sequence[Drawn]:
    """All of the figures, or none and a complaint: a result may have been edited, or made by another version."""
    try:
        return list(figures)
    except Exception as error:  # fields and arrays that are missing, of other kinds or sizes
        told = StorageError(
            wanted="results with the fields and arrays that their figures show",
            got=f"{type(error).__name__}: {error}"[:100],
            where=members[0][0] if len(members) == 1 else f"{members[0][0]} and {len(members) - 1} more",
            do="run again with --again",
        )
        if complain is None:
            raise told from error
    complain(told)
    return []


def _labelled(members: Sequence[tuple[Path, Result]]) -> dict[str, tuple[Path, Result]]:
    """By checkpoint name; where two are alike, with the request that distinguishes them."""
    names = [shown(str(result.checkpoint["name"])) for _, result in members]
    return {
        name if names.count(name) == 1 else f"{name} ({result.request[:6]})": (path, result)
        for name, (path, result) in zip(names, members, strict=True)
    }


def _precision(members: Mapping[str, tuple[Path, Result]], end: str) -> Iterator[Drawn]:
    """k-NN top-1 by precision, of the first variant of each checkpoint that has percentiles."""
    lines = {label: made for label, (_, result) in members.items() if (made := _bins(result.scores)) is not None}
    if lines:
        yield Drawn(name=f"precision-{end}", title="k-NN top-1 by precision", figure=prototypes.precision(lines))


def _bins(scores: Sequence[Score]) -> prototypes.BinLine | None:
    found = [s for s in scores if s.metric == "top1_bin"]
    variant = ("temperature", "centre")
    found = [s for s in found if all(s.at[key] == found[0].at[key] for key in variant)]
    if not found:
        return None
    low, high = np.array([s.interval or (s.value, s.value) for s in found]).T
    return prototypes.BinLine(
        bin=np.array([s.at["bin"] for s in found]),
        value=np.array([s.value for s in found]),
        low=low,
        high=high,
        count=np.array([s.n for s in found]),
        bins=int(str(found[0].at["bins"])),
    )


def _compared(members: Mapping[str, tuple[Path, Result]], end: str) -> Iterator[Drawn]:
    sweeps = {label: _sweep(result) for label, (_, result) in members.items()}
    if any(max(sweep.largest) > 1 for sweep in sweeps.values()):  # else both lines are flat: there are no duplicates
        yield Drawn(name=f"thresholds-{end}", title="duplicates vs. threshold", figure=prototypes.thresholds(sweeps))
    yield from sharing.over_checkpoints([result for _, result in members.values()], end)


def _prototypes(arrays: Mapping[str, Arrays], first: Result, end: str) -> Iterator[Drawn]:
    threshold = float(str(first.settings["threshold"]))
    kappas = {label: found["kappa"] for label, found in arrays.items()}
    yield Drawn(name=f"kappa-{end}", title="precision of the prototypes", figure=prototypes.kappa_histogram(kappas))
    sizes = {k: found[key] for k, found in arrays.items() if (key := f"sizes_leader_{threshold:g}") in found}
    if any(np.max(one, initial=0) > 1 for one in sizes.values()):
        title = "sizes of duplicate sets"
        yield Drawn(name=f"set-sizes-{end}", title=title, figure=prototypes.set_sizes(sizes, threshold))
    counts = {label: found["counts"] for label, found in arrays.items()}
    yield Drawn(name=f"usage-{end}", title="prototype usage", figure=prototypes.usage(counts))
    by_class = {label: found["class_effective"] for label, found in arrays.items() if "class_effective" in found}
    if by_class:
        yield Drawn(name=f"class-use-{end}", title="prototypes by class", figure=sharing.class_use(by_class))


def _one(label: str, found: Mapping[str, np.ndarray], end: str, galleries: bool) -> Iterator[Drawn]:
    """Figures of one checkpoint."""
    name = results.slug(label)
    yield Drawn(
        name=f"projection-{name}-{end}",
        title=f"prototypes of {label}",
        figure=prototypes.projection(
            found["projection"], found["projection_share"], found["counts"], found["void"], title=label
        ),
    )
    if "similarity" in found:
        figure = sharing.similarity(found["similarity"], found["similarity_rows"], title=label)
        yield Drawn(name=f"similarity-{name}-{end}", title=f"similarity of prototypes of {label}", figure=figure)
    if galleries and "gallery_images" in found:
        captions = [_caption(found, int(k)) for k in found["gallery_prototype"]]
        kinds = [str(kind) for kind in found["gallery_kind"]]
        figure = prototypes.gallery(kinds, captions, found["gallery_images"])
        yield Drawn(name=f"gallery-{name}-{end}", title=f"nearest images to prototypes of {label}", figure=figure)


def _caption(found: Mapping[str, np.ndarray], prototype: int) -> str:
    purity = percent(float(found["purity"][prototype]))
    return (
        f"prototype {prototype:,}: {int(found['counts'][prototype]):,} images\n"
        f"κ {float(found['kappa'][prototype]):.3g}, purity {purity:.0f} %"
    )


def _sweep(result: Result) -> prototypes.Sweep:
    """Counts of the evaluated head by `leader`, by rising threshold."""
    of: dict[str, dict[float, float]] = {"unique_count": {}, "largest_count": {}}
    num = 0
    for score in result.scores:
        if score.metric in of:
            at: Any = score.at["threshold"]
            of[score.metric].setdefault(float(at), score.value)
            num = score.n
    at_all = sorted(of["unique_count"])
    return prototypes.Sweep(
        threshold=np.array(at_all),
        unique=np.array([of["unique_count"][t] for t in at_all]),
        largest=np.array([of["largest_count"][t] for t in at_all]),
        num=num,
    )
