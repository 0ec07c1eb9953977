"""The flags of `run` and `plan`, their help, and the plan that they stand for."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from evaltk import plugins
from evaltk.bench import ImageOptions
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options
from evaltk.cli._resources import Resources
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import SettingsError
from evaltk.types import PositionRule, Precision

if TYPE_CHECKING:
    from evaltk.running.planning import Plan


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What to evaluate.

    Attributes:
        checkpoints: files, trainings' folders, catalogue names, timm:NAME, random:ARCH[@SEED] or pixels:SIZE; or a
            suite file (docs/suites.md).
        protocols: what to measure: evaltk ls protocols.
        data: datasets: evaltk ls datasets; some need no path.
        test_on: other test sets, for the protocol shift.
        limit: smoke test on N images per split, class-balanced; never compared with published numbers.
        seed: seed of all random draws.
        again: redo finished results.
        plugin: your own protocols, datasets or families.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = field(metadata={"metavar": "CHECKPOINT ..."})
    protocols: tuple[str, ...] = ("knn",)
    data: tuple[str, ...] = field(default=(), metadata={"metavar": "[LABEL:]NAME=PATH ..."})
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = field(default=(), metadata={"metavar": "FILE.py"})
    test_on: tuple[str, ...] = field(default=(), metadata={"metavar": "X=PATH ..."})
    limit: int | None = None
    seed: int = 0
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Many:
    """Many results (docs/suites.md).

    Attributes:
        every_checkpoint: of a training all that it kept, not the last.
        watch: the same, and more as the training writes them.
        fail_fast: stop at the first error, not at the end.
        pixels: GB of decoded pixels to keep, for the next checkpoint.
        log: send scores there, too.
        launcher: run as an array job, or in processes of this machine.
    """

    every_checkpoint: bool = False
    watch: bool = False
    fail_fast: bool = False
    pixels: float | None = None
    log: Literal["tensorboard", "wandb"] | None = None
    launcher: Literal["slurm", "local"] | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where results go.

    Attributes:
        out: folder of the results.
        cache: cache folder (default: $EVALTK_HOME, ~/.cache/evaltk).
        json: print JSON instead of text.
        offline: download nothing; a catalogued file that was not fetched is an error.
    """

    out: Path = Path("runs")
    cache: Path | None = None
    json: bool = False
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class Images(ImageOptions):
    """Image preprocessing, where it is not the protocol's.

    Attributes:
        position: rule for other sizes (default: the family's).
        skip_bad_images: unreadable images to leave out per split.
    """

    position: PositionRule | None = field(default=None, metadata={"metavar": "RULE"})
    skip_bad_images: int = field(default=0, metadata={"metavar": "N"})

    def image_options(self) -> ImageOptions:
        """The options that change what images become."""
        return ImageOptions(**{f.name: getattr(self, f.name) for f in dataclasses.fields(ImageOptions)})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What to compute on.

    Attributes:
        device: auto, cpu, mps, cuda or cuda:N.
        precision: published numbers are fp32; results say what bf16 moved.
        batch_size: images per forward pass.
        workers: decoding processes (default: by the number of cores).
    """

    device: str = field(default="auto", metadata={"metavar": "DEVICE"})
    precision: Precision = "fp32"
    batch_size: int | Literal["auto"] = "auto"
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Common(Machine, ReadOptions, Images, Many, Written, Evaluated):
    """Evaluate checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Options(DataFlags, Common):
    """Evaluate checkpoints."""


GROUPS = {
    "Evaluated": "what to evaluate",
    "Written": "where results go",
    "Many": "many results",
    "ImageOptions": "image preprocessing (default: the protocol's)",
    "Images": "image preprocessing (default: the protocol's)",
    "ReadOptions": "reading a checkpoint, where its file does not say",
    "Machine": "machine",
}
SETTINGS = """settings of a protocol: evaltk {command} --protocols NAME --help
resources of a Slurm job: --slurm.{{partition,minutes,cpus,gpus,gb,jobs,parallel,
    account,qos,constraint,setup}} (docs/suites.md)"""
SETTINGS_END = "_settings"  # of the field with a protocol's settings
OWN = """your own images: evaltk datasets --help (--split, --show,
    --max-pixels, --path-column, --label-column, --split-column)"""


def options_type() -> type:
    """`Options` with a field for the settings of each protocol, so that `--knn.k` and its help come from them."""
    import protocols

    # The field has another name than its flags: a protocol called `precision` stands beside the option --precision.
    fields = [
        (_settings(name), Annotated[known.settings, tyro.conf.arg(name=name)], field(default_factory=known.settings))
        for name, known in sorted(protocols.registry().items())
    ]
    fields.append(("slurm_resources", Annotated[Resources, tyro.conf.arg(name="slurm")], field(default=Resources())))
    return dataclasses.make_dataclass("RunOptions", fields, bases=(Options,), frozen=True, kw_only=True)


def parse(argv: list[str], command: str, doc: str | None, *, default: Any = None) -> Any:
    """The options of `run` and `plan`, with the settings of all protocols.

    Help shows the common options, or where ``--protocols`` names some, the settings of those.

    Args:
        default: what holds where the arguments say nothing.
    """
    plugins.use(plugins.named_in(argv))
    if any(word in _options.HELP for word in argv):
        named = _protocols_named(argv)
        if not named:
            more = [SETTINGS.format(command=command), OWN]
            _options.show(_options.usage(Common, command, doc, groups=GROUPS, more=more))
        _options.show("\n".join(_settings_help(named, command)))
    return _options.parse(options_type() if default is None else type(default), argv, command, doc, default=default)


def _protocols_named(argv: Sequence[str]) -> list[str]:
    named: list[str] = []
    taking = False
    for word in argv:
        if word.startswith("-"):
            flag, _, value = word.partition("=")
            taking = flag == "--protocols"
            word = value
        if taking and word:
            named.append(word)
    return named


def _settings_help(names: Sequence[str], command: str) -> list[str]:
    """Help on the settings of protocols. Raises: SettingsError: an unknown one."""
    from evaltk.running.planning import known_protocol

    lines = _options.wrapped(f"usage: evaltk {command} CHECKPOINT ... --protocols {' '.join(names)} [settings]")
    for name in dict.fromkeys(names):
        protocol = known_protocol(name)
        title = textwrap.wrap(f"{name}: {protocol.summary}", _options.WIDTH)
        lines += ["", *title, *_options.settings(protocol.settings, name)]
    return [*lines, "", f"all other options: evaltk {command} --help"]


def _settings(protocol: str) -> str:
    return f"{protocol}{SETTINGS_END}"


def plan_of(options: Any) -> Plan:
    """The plan that the parsed options stand for. Raises: SettingsError."""
    from evaltk.checkpoints import catalog
    from evaltk.running.planning import Plan, known_protocol

    if not options.checkpoints:
        raise SettingsError(
            wanted="checkpoints to evaluate", got="none", where="evaltk run", do="evaltk run CKPT --data ..."
        )
    if not options.data:
        do = "--data NAME=PATH, e.g. --data digits; evaltk ls datasets"
        raise SettingsError(wanted="datasets to evaluate on", got="none", where="--data", do=do)
    for name in options.protocols:
        known_protocol(name)
    return Plan(
        checkpoints=options.checkpoints,
        protocols=_chosen(options),
        data=options.data,
        out=options.out,
        cache=options.cache or catalog.home(),
        again=options.again,
        seed=options.seed,
        limit=options.limit,
        device=options.device,
        precision=options.precision,
        position=options.position,
        read=options.read_options(),
        own=DataOptions.of(options, options.seed),
        images=options.image_options(),
        batch_size=None if options.batch_size == "auto" else options.batch_size,
        workers=options.workers,
        pixels=options.pixels or 0.0,
        skip_bad_images=options.skip_bad_images,
    )


def _chosen(options: Any) -> dict[str, Any]:
    """{protocol: its settings}. Raises: SettingsError: other test sets without the protocol that takes them."""
    chosen = {name: getattr(options, _settings(name)) for name in options.protocols}
    if options.test_on:
        if "shift" not in chosen:
            got, do = ", ".join(chosen), "--protocols shift --shift.classifiers knn logistic"
            raise SettingsError(wanted="the protocol shift for other test sets", got=got, where="--test-on", do=do)
        known = chosen["shift"]
        chosen["shift"] = dataclasses.replace(known, test_on=(*known.test_on, *options.test_on))
    return chosen


def as_run(*, split: bool = True) -> list[str]:
    """The lines of another command's help on the flags that it shares with `run`. split: those of one's own images."""
    own = ["  --split ...              your own images"] if split else []
    return [
        "as for evaltk run (evaltk run --help):",
        "  --resize ...             image preprocessing",
        "  --num-heads ...          reading a checkpoint, where its file does not say",
        *own,
        "  --device ...             machine",
        "",
    ]
