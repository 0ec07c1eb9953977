"""Evaluate checkpoints; writes one result a (checkpoint, protocol, data set, settings) and skips what is done.

CHECKPOINTS are files, catalogue names (evaltk fetch), timm:NAME, random:ARCH[@SEED] or pixels:SIZE.

Examples:
    evaltk run dino_vits16 --protocols knn --data imagenet=/data/imagenet --device cuda --precision fp32
    evaltk run mine.pth random:vit_small_patch16_224 --data cifar10=/data/cifar10 --knn.k 10 20
    evaltk run net.pt --norm-eps 1e-6 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --data photos:imagefolder=~/photos
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from evaltk.bench import ImageOptions
from evaltk.errors import SettingsError
from evaltk.types import PositionRule, Precision

if TYPE_CHECKING:
    from evaltk.running.runner import Job, Plan
    from evaltk.types import Result

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What to say of a file where its tensors do not tell.

    Attributes:
        branch: which copy of the net: teacher, student, target_encoder, encoder (default: the one its paper evaluates).
        family: read the file as dino, ibot, msn, timm or own, where two could; a published number beside its results
            then stands there on your word.
        num_heads: attention heads.
        norm_eps: epsilon of the LayerNorms.
        mean: pixel mean, R G B of [0, 1].
        std: pixel standard deviation, R G B of [0, 1].
    """

    branch: str | None = None
    family: str | None = None
    num_heads: int | None = None
    norm_eps: float | None = None
    mean: Triple | None = None
    std: Triple | None = None


@dataclass(frozen=True, kw_only=True)
class Options(Reading, ImageOptions):
    """Evaluate checkpoints.

    Attributes:
        checkpoints: files, catalogue names, timm:NAME, random:ARCH[@SEED] or pixels:SIZE.
        protocols: what to measure (evaltk ls protocols).
        data: NAME=PATH, LABEL:NAME=PATH, or NAME where it needs no path (evaltk ls datasets).
        out: folder of the results.
        again: run again what is done.
        device: cpu, cuda or cuda:N.
        precision: fp32 (published figures) or bf16.
        position: rule for position tables at other image sizes; dino is the reference's.
        batch_size: images a forward pass, or auto.
        workers: processes that decode images (default: by the machine).
        skip_bad_images: unreadable images a split that may be left out; the result says how many were.
        cache: folder of the feature cache (default: $EVALTK_HOME or ~/.cache/evaltk).
        seed: of every random stream.
        json: print one JSON line a result instead of a table.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    protocols: tuple[str, ...] = ("knn",)
    data: tuple[str, ...] = ()
    out: Path = Path("runs")
    again: bool = False
    device: str = "cpu"
    precision: Precision = "fp32"
    position: PositionRule = "dino"
    batch_size: int | Literal["auto"] = "auto"
    workers: int | None = None
    skip_bad_images: int = 0
    cache: Path | None = None
    seed: int = 0
    json: bool = False


def options_type() -> type:
    """`Options` with a field for the settings of each protocol, so that `--knn.k` and its help come from them."""
    import protocols

    # The field has another name than its flags: a protocol called `precision` stands beside the option --precision.
    fields = [
        (_settings(name), Annotated[module.Settings, tyro.conf.arg(name=name)], field(default_factory=module.Settings))
        for name, module in sorted(protocols.registry().items())
    ]
    return dataclasses.make_dataclass("RunOptions", fields, bases=(Options,), frozen=True, kw_only=True)


def _settings(protocol: str) -> str:
    return f"{protocol}_settings"


def plan_of(options: Any) -> Plan:
    """The plan that the parsed options stand for. Raises: SettingsError."""
    from evaltk.checkpoints import catalog
    from evaltk.running.runner import Plan, known_protocol

    if not options.checkpoints:
        raise SettingsError(
            wanted="checkpoints to evaluate", got="none", where="evaltk run", do="evaltk run CKPT --data ..."
        )
    if not options.data:
        raise SettingsError(
            wanted="data sets to evaluate on", got="none", where="--data", do="--data NAME=PATH; evaltk ls datasets"
        )
    said = {f.name: getattr(options, f.name) for f in dataclasses.fields(Reading)}
    for name in options.protocols:
        known_protocol(name)
    return Plan(
        checkpoints=options.checkpoints,
        protocols={name: getattr(options, _settings(name)) for name in options.protocols},
        data=options.data,
        out=options.out,
        cache=options.cache or catalog.home(),
        again=options.again,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        position=options.position,
        read={k: v for k, v in said.items() if v is not None},
        images=ImageOptions(resize=options.resize, crop=options.crop, interpolation=options.interpolation),
        batch_size=None if options.batch_size == "auto" else options.batch_size,
        workers=options.workers,
        skip_bad_images=options.skip_bad_images,
    )


def main(argv: list[str]) -> int:
    """Run, then print a table of what was asked for (stdout) and say where the results lie (stderr)."""
    from evaltk.running import runner

    options = tyro.cli(options_type(), args=argv, prog="evaltk run", description=__doc__)
    plan = plan_of(options)
    shown: list[tuple[Job, Result]] = []

    def report(job: Job, result: Result, skipped: bool) -> None:
        from evaltk.progress import log

        log.info("%s %s: %s", "done before:" if skipped else "wrote", job.path, headline(result))
        shown.append((job, result))
        if options.json:
            print(json.dumps({"path": str(job.path), "skipped": skipped} | dataclasses.asdict(result)), flush=True)

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from evaltk import distributed

        with distributed.process_group(options.device):
            runner.run(plan, report=report)
    else:
        runner.run(plan, report=report)
    if shown and not options.json:
        print_tables([(job.path, result) for job, result in shown])
    return 0


def print_tables(found: Sequence[tuple[Path, Result]]) -> None:
    """Write the tables of results to stdout as Markdown; what cannot be told from the best is bold."""
    from evaltk.progress import log
    from reports import paired
    from reports.formats import render
    from reports.tables.build import build_overview

    predictions = paired.beside(found, lambda error: log.warning("%s", error))
    made = build_overview([result for _, result in found], predictions=predictions)
    sys.stdout.write(render.render_all(made, "md"))


def headline(result: Result) -> str:
    """The result's first score in words."""
    score = max(result.scores, key=lambda s: s.metric.endswith("best_k"), default=None)
    if score is None:
        return "no scores"
    at = ", ".join(f"{k} {v}" for k, v in score.at.items())
    return f"{score.metric} {100 * score.value:.2f} % of {score.n:,} ({at})"
