"""Compare the prototypes of two checkpoints on the same images.

Examples:
    evaltk diff runs/dino/checkpoint.pth runs/dino_vmf/checkpoint.pth --data digits
    evaltk diff run/checkpoint-epoch0050.pth run/checkpoint.pth --data imagenet=/data/imagenet --json
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from evaltk import plugins
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options
from evaltk.errors import SettingsError

if TYPE_CHECKING:
    from evaltk.running.runner import Plan
    from evaltk.types import Result


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions):
    """Compare prototypes: duplicates, the void set, use, and a matching by the images assigned.

    Attributes:
        checkpoints: two checkpoints with their heads; K and dimension may differ.
        data: the images, as for evaltk run.
        plugin: your own datasets or families.
        temperature: tau of the scores (0.07, the final teacher temperature of the published runs).
        out: folder of the results, which are kept.
        cache: cache folder (default: $EVALTK_HOME, ~/.cache/evaltk).
        seed: seed of all random draws.
        limit: smoke test on N images per split, class-balanced.
        device: auto (cuda, else mps, else cpu) or cpu, mps, cuda, cuda:N.
        json: print one JSON object instead of tables.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = field(metadata={"metavar": "A B"})
    data: str = field(default="", metadata={"metavar": "NAME=PATH"})
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = field(default=(), metadata={"metavar": "FILE.py"})
    temperature: float = 0.07
    out: Path = Path("runs")
    cache: Path | None = None
    seed: int = 0
    limit: int | None = None
    device: str = field(default="auto", metadata={"metavar": "DEVICE"})
    json: bool = False


def main(argv: list[str]) -> int:
    """Run the prototypes protocol on both where that is not done, and print the comparison. Raises: EvaltkError."""
    plugins.use(plugins.named_in(argv))
    options = _options.parse(Options, argv, "diff", __doc__)
    _check(options)
    from evaltk import results
    from evaltk.prototypes import matching
    from evaltk.running import runner
    from reports import differences

    found: dict[str, tuple[Path, Result]] = {}
    runner.run(_plan(options), report=lambda job, result, _: found.update({job.checkpoint: (job.path, result)}))
    a, b = (found[name] for name in options.checkpoints)
    arrays = [results.read_predictions(path) for path, _ in (a, b)]
    matched = matching.match(arrays[0]["assigned"], arrays[1]["assigned"], seed=options.seed)
    if options.json:
        print(json.dumps(differences.as_values(a[1], b[1]) | {"matching": _values(matched)}))
        return 0
    from evaltk.cli.score._terminal import show_table

    for table in differences.tables((a[1], b[1]), arrays, _matching_values(matched)):
        show_table(table)
        print()
    return 0


def _check(options: Options) -> None:
    """Raises: SettingsError: not two checkpoints, or no data."""
    if len(options.checkpoints) != 2 or len(set(options.checkpoints)) != 2:
        got = " ".join(options.checkpoints) or "none"
        raise SettingsError(wanted="two checkpoints", got=got, where="evaltk diff", do="evaltk diff A B --data NAME")
    if not options.data:
        do = "--data NAME=PATH, e.g. --data digits; evaltk ls datasets"
        raise SettingsError(wanted="images to compare the prototypes on", got="none", where="--data", do=do)


def _plan(options: Options) -> Plan:
    from evaltk.checkpoints import catalog
    from evaltk.running.runner import Plan
    from protocols import prototypes

    return Plan(
        checkpoints=options.checkpoints,
        protocols={"prototypes": prototypes.Settings(temperature=(options.temperature,))},
        data=(options.data,),
        out=options.out,
        cache=options.cache or catalog.home(),
        seed=options.seed,
        limit=options.limit,
        device=options.device,
        read=options.read_options(),
    )


def _values(matched: Any) -> dict[str, Any]:
    return dataclasses.asdict(matched) | {"pairs": matched.pairs.tolist()}


def _matching_values(matched: Any) -> dict[str, Any]:
    """The matching as `reports` takes it."""
    return dataclasses.asdict(matched)
