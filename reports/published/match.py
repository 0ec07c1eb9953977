"""The published match of a score: the number in a paper or README measured on the same thing in the same way.

What a protocol's scores are called in print stands in its layout (`published` of an extra column). Of a catalogued
file, known by its sha256, method and net are those that `weights.toml` gives its name. Of any other they are read from
the result: family, architecture, branch, and how the prototypes of a file of our own were scored. A result whose
checkpoint's origin nothing proves (`origin_proof`) has no method, and so no published match.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from evaltk.types import OriginProof, Result, Score
from reports import layouts
from reports.comparable import as_mapping, scores
from reports.layouts import Extra
from reports.published.load import Published, arch_label, find_published, weights

IMAGENET = {"imagenet": "ImageNet-1K"}
METHODS = {"dino": "DINO", "ibot": "iBOT", "msn": "MSN"}
NORMS = {"linear": "none", "cosine": "L2", "vmf": "vMF"}  # what Table 1 calls our ways to score
ABLATION, ABLATION_EPOCHS = "ablation_knn", 100
RUNS: Mapping[object, str] = {0: "run1;seed=0", 42: "run2;seed=42"}  # of Table 8, by the training run's seed
NOT_PUBLISHED = ("student", "encoder")  # papers report the teacher, MSN the target encoder
# A number is set beside a published one only where something proves whose weights they are. A pinned sha256 proves them
# to be the published file's; a training layout proves the method; tensors alone prove nothing.
PROVED = (OriginProof.SHA256, OriginProof.LAYOUT, OriginProof.USER)
ASSUMED = "published: matched by family, architecture, branch; identity not verified"
FAMILY_GIVEN = "matched by the --family given; identity not verified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A score in the words of `reports/published`, and its method in print ("" if no paper has it)."""

    result: Result
    score: Score
    extra: Extra
    task: str
    dataset: str
    metric: str
    variant: str
    method: str
    arch: str

    def row(self) -> Published | None:
        """The published number of the same thing, the best source first; None where there is none."""
        if not self.method:
            return None
        return find_published(
            task=self.task,
            dataset=self.dataset,
            metric=self.metric,
            arch=self.arch,
            method=self.method,
            variant=self.variant,
        )


def measured(result: Result, score: Score, extra: Extra) -> Measured | None:
    """The score in the words of the published numbers; None if there are no published numbers of its kind."""
    known = extra.published
    names = known.get("dataset", IMAGENET)
    dataset = names.get(score.dataset, names.get("*"))
    if not known or dataset is None:
        return None
    checkpoint = result.checkpoint
    arch = as_mapping(checkpoint.get("arch"))
    registers = arch.get("registers")
    net = arch_label(str(arch.get("name")), registers=registers if isinstance(registers, int) else 0)
    method, net = _catalogued(result) or (_method(checkpoint), net)
    reported = checkpoint.get("branch") not in NOT_PUBLISHED and result.origin_proof in PROVED
    found = Measured(
        result=result,
        score=score,
        extra=extra,
        task=known["task"],
        dataset=dataset,
        metric=_named(known["metric"], dataset),
        variant=known["variant"],
        method=method if reported else "",
        arch=net,
    )
    return _of_the_ablation(found)


def _catalogued(result: Result) -> tuple[str, str] | None:
    """(method, net) in print of a catalogued file, ("", "") of one without published numbers; None: not catalogued."""
    name = result.checkpoint.get("catalogued")
    if not name or result.origin_proof is not OriginProof.SHA256:
        return None
    return weights().get(str(name), ("", ""))


def _method(checkpoint: Mapping[str, object]) -> str:
    """What papers call the method; of our own files, which say how they were trained, the head tells."""
    family, head = str(checkpoint.get("family")), as_mapping(checkpoint.get("head"))
    name = METHODS.get(str(head.get("kind")) if family == "own" else family, "")
    return f"{name}-vMF" if name and head.get("scoring") == "vmf" else name


def every(result: Result) -> Iterator[Measured]:
    """All scores of a result of a kind for which there are published numbers.

    One of the ablation's runs comes twice: Table 1 prints the mean of two runs, Table 8 each of them.
    """
    layout = layouts.protocols().get(result.protocol)
    for extra in layout.extra if layout else ():
        for score in scores(result, extra.metric, extra.at)[:1]:
            if found := measured(result, score, extra):
                yield found
                if found.task == ABLATION and (run := RUNS.get(result.checkpoint.get("trained_seed"))):
                    yield replace(found, variant=f"{found.variant};{run}")


def _of_the_ablation(found: Measured) -> Measured:
    """As a cell of Table 1 where a run of our own is like those: DINO, ViT-S/16, 100 epochs."""
    checkpoint = found.result.checkpoint
    head = as_mapping(checkpoint.get("head"))
    norm, centering = NORMS.get(str(head.get("scoring"))), head.get("centering")
    ours = (
        checkpoint.get("family") == "own" and head.get("kind") == "dino" and checkpoint.get("epoch") == ABLATION_EPOCHS
    )
    if not (found.method and ours and norm and centering and found.task == "imagenet_knn" and found.arch == "ViT-S/16"):
        return found
    named = {("none", "logit"): "DINO", ("L2", "logit"): "DINO", ("vMF", "probability"): "DINO-vMF"}
    return replace(
        found,
        task=ABLATION,
        metric="kNN top-1",
        variant=f"prototype_norm={norm};centering={centering}",
        method=named.get((norm, str(centering)), "DINO ablation"),
    )


def _named(metric: object, dataset: str) -> str:
    """A metric's published name, which may depend on the dataset: {the paper's dataset, or ``*``: name}."""
    if isinstance(metric, str):
        return metric
    names = as_mapping(metric)
    return str(names.get(dataset, names.get("*")))
