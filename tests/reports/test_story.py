"""The five closing lines say what the numbers say, whichever way these go."""

from __future__ import annotations

from evaltk.types import OriginProof, Preprocessing, Result, ResultData, Score
from reports import story
from reports.story import Subject


def score(metric: str, value: float, n: int = 1000, interval: tuple[float, float] | None = None, **at: object) -> Score:
    return Score(dataset="digits", split="test", metric=metric, value=value, n=n, at=at, interval=interval)


def result(*scores: Score) -> Result:
    return Result(
        checkpoint={"name": "net"},
        protocol="any",
        version=1,
        settings={},
        data=ResultData(name="digits", fingerprint="0"),
        preprocessing=Preprocessing(precision="fp32", position="dino"),
        origin_proof=OriginProof.LAYOUT,
        notes=(),
        scores=scores,
        seed=0,
        request="a",
        made={},
    )


def subject(name: str, unique: float, void: float, used: float, knn: float, *, kind: str = "void") -> Subject:
    heads = result(
        score("unique_at_0.9_count", unique, 1024),
        score("largest_share", 0.5),
        score("void_sets_share", void),
        score("void_cosine", -0.97, set=kind),
        score("used_share", used),
    )
    votes = result(score("top1_chosen_k", knn, 797, (knn - 0.02, knn + 0.02)))
    few = result(score("top1_mean", knn - 0.1, shots=5))
    return Subject(name=name, results={"prototypes": heads, "knn": votes, "fewshot": few})


FLOOR = Subject(name="raw pixels", results={"knn": result(score("top1_chosen_k", 0.95)), "fewshot": result()})


def test_a_run_like_the_paper() -> None:
    dino, vmf = subject("DINO", 200, 0.75, 0.03, 0.80), subject("DINO-vMF", 800, 0.1, 0.4, 0.88)
    lines = story.lines(dino, vmf, [FLOOR])
    assert len(lines) == 5 and not any("contradict" in line for line in lines)
    assert lines[0] == (
        "Duplicates: DINO ends with 200 unique prototypes of 1,024, DINO-vMF with 800 of 1,024, 4.0 times as many, "
        "as in the paper (Table 4)."
    )
    assert "DINO: 75.0 % of the prototypes point away from the data (cosine -0.970)" in lines[1]
    assert "vMF puts more of them to use" in lines[2]
    assert "vMF is ahead" in lines[3] and "Both trained nets are behind raw pixels" in lines[3]
    assert lines[4] == "Few-shot, 5 images per class: DINO 70.0 %, DINO-vMF 78.0 %; best: DINO-vMF."


def test_a_run_against_the_paper_says_so() -> None:
    dino, vmf = subject("DINO", 800, 0.1, 0.4, 0.88), subject("DINO-vMF", 200, 0.75, 0.03, 0.80)
    lines = story.lines(dino, vmf, [])
    assert all("contradicts the paper" in line for line in lines[:3])
    assert "vMF is behind, unlike in the paper" in lines[3]


def test_what_cannot_be_told_is_not_told() -> None:
    dino = subject("DINO", 500, 0.0, 0.2, 0.80, kind="used")
    vmf = subject("DINO-vMF", 505, 0.0, 0.2, 0.81, kind="unused")
    lines = story.lines(dino, vmf, [])
    assert "about the same, where the paper has more for vMF" in lines[0]
    assert (
        "DINO: none (largest set 50.0 %, in use); DINO-vMF: none (largest set 50.0 %, unused, cosine -0.970)"
        in lines[1]
    )
    assert "The paper's void set (section 5.2) is not seen in this run" in lines[1]
    assert lines[2].endswith("about the same.")
    assert "Their intervals overlap; evaltk table --layout compare" in lines[3]


def test_without_results_nothing_is_claimed() -> None:
    lines = story.lines(Subject(name="A", results={}), Subject(name="B", results={}), [])
    assert all(line.endswith("not measured.") for line in lines)
