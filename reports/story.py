"""What a run of DINO beside DINO-vMF shows, in five lines made of its numbers, each against what the paper says.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Tables 1 to 4, section 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaltk.types import Result, Score
from reports.table import percent

CLOSE = 0.05  # relative difference of counts below which two nets are called alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A checkpoint's results by protocol. name: as the lines call it."""

    name: str
    results: Mapping[str, Result]

    def score(self, protocol: str, metric: str, **at: object) -> Score | None:
        """The first score of a metric at these settings; None where it was not measured."""
        result = self.results.get(protocol)
        scores = () if result is None else result.scores
        return next((s for s in scores if s.metric == metric and at.items() <= s.at.items()), None)


def lines(dino: Subject, vmf: Subject, floors: Sequence[Subject]) -> list[str]:
    """Five lines on duplicates, the void set, use, k-NN, and few-shot and linear; what was not measured says so.

    Args:
        dino: cosine prototypes, logit centre. vmf: DINO-vMF. floors: nets or pixels that any training should beat.
    """
    return [
        _unique(dino, vmf),
        _void(dino, vmf),
        _use(dino, vmf),
        _knn(dino, vmf, floors),
        _others(dino, vmf, floors),
    ]


def _unique(dino: Subject, vmf: Subject) -> str:
    a, b = (s.score("prototypes", "unique_at_0.9_count") for s in (dino, vmf))
    if a is None or b is None:
        return "Duplicates: not measured."
    told = f"Duplicates: {dino.name} ends with {a.value:,.0f} unique prototypes of {a.n:,}"
    told += f", {vmf.name} with {b.value:,.0f} of {b.n:,}"
    more, less = max(a.value, b.value), min(a.value, b.value)
    if more - less <= CLOSE * more:
        return f"{told}: about the same, where the paper has more for vMF (Table 4)."
    if b.value > a.value:
        return f"{told}, {b.value / a.value:.1f} times as many, as in the paper (Table 4)."
    return f"{told}, fewer: this run contradicts the paper (Table 4)."


def _void(dino: Subject, vmf: Subject) -> str:
    shares = []
    told = []
    for subject in (dino, vmf):
        share, cosine = subject.score("prototypes", "void_sets_share"), subject.score("prototypes", "void_cosine")
        if share is None or cosine is None:
            return "Void set: not measured."
        shares.append(share.value)
        if share.value:
            told.append(
                f"{subject.name}: {percent(share.value):.1f} % of the prototypes point away from the data (cosine "
                f"{cosine.value:.3f}) and no image is assigned to them"
            )
        else:
            told.append(f"{subject.name}: none ({_largest(subject)})")
    line = f"Void set: {'; '.join(told)}"
    if shares[0] > shares[1]:
        return f"{line}. In the paper, too, vMF's is smaller (section 5.2)."
    if shares[0] == shares[1] == 0:
        return f"{line}. The paper's void set (section 5.2) is not seen in this run."
    return f"{line}. This run contradicts the paper, where vMF's is smaller (section 5.2)."


def _largest(subject: Subject) -> str:
    share = subject.score("prototypes", "largest_share")
    kind = subject.score("prototypes", "void_cosine")
    if share is None or kind is None or kind.at.get("set") == "no sets":
        return "no duplicates"
    use = {"used": "in use", "unused": f"unused, cosine {kind.value:.3f}"}.get(str(kind.at.get("set")), "")
    return f"largest set {percent(share.value):.1f} %, {use}"


def _use(dino: Subject, vmf: Subject) -> str:
    a, b = (s.score("prototypes", "used_share") for s in (dino, vmf))
    if a is None or b is None:
        return "Use: not measured."
    told = f"Use: images are assigned to {percent(a.value):.1f} % of {dino.name}'s prototypes"
    told += f" and to {percent(b.value):.1f} % of {vmf.name}'s"
    if abs(a.value - b.value) <= CLOSE * max(a.value, b.value):
        return f"{told}: about the same."
    if b.value > a.value:
        return f"{told}: vMF puts more of them to use, as the paper says."
    return f"{told}: fewer, which contradicts the paper."


def _knn(dino: Subject, vmf: Subject, floors: Sequence[Subject]) -> str:
    metric = "top1_chosen_k" if dino.score("knn", "top1_chosen_k") else "top1_best_k"
    a, b = (s.score("knn", metric) for s in (dino, vmf))
    if a is None or b is None:
        return "k-NN: not measured."
    told = f"k-NN: {dino.name} {_accuracy(a)}, {vmf.name} {_accuracy(b)}"
    beside = [(s.name, score) for s in floors if (score := s.score("knn", metric)) is not None]
    told += "".join(f", {name} {_accuracy(score)}" for name, score in beside)
    better = [name for name, score in beside if score.value >= max(a.value, b.value)]
    end = f" Both trained nets are behind {' and '.join(better)}." if better else ""
    if "raw pixels" in better:
        end += " On images this small raw pixels are near the ceiling: look at the two nets beside each other."
    if a.interval is None or b.interval is None or _overlap(a.interval, b.interval):
        return f"{told}. Their intervals overlap; evaltk table --layout compare tests both on the same images.{end}"
    ahead = "vMF is ahead, as in the paper (Table 2)" if b.value > a.value else "vMF is behind, unlike in the paper"
    return f"{told}. {ahead}.{end}"


def _others(dino: Subject, vmf: Subject, floors: Sequence[Subject]) -> str:
    parts = []
    for title, protocol, metric, at in (
        ("few-shot, 5 images per class", "fewshot", "top1_mean", {"shots": 5}),
        ("linear", "linear", "C_top1", {}),
    ):
        found = [(s.name, score) for s in (dino, vmf, *floors) if (score := s.score(protocol, metric, **at))]
        if len(found) >= 2 and found[0][0] == dino.name and found[1][0] == vmf.name:
            best = max(found, key=lambda one: one[1].value)[0]
            listed = ", ".join(f"{name} {_accuracy(score)}" for name, score in found)
            parts.append(f"{title}: {listed}; best: {best}")
    return f"{_sentence('; '.join(parts))}." if parts else "Few-shot and linear: not measured."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _accuracy(score: Score) -> str:
    return f"{percent(score.value):.1f} %"


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]
