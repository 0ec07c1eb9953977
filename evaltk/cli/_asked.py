"""What `run` and `plan` are asked for, by flags or a suite file with flags that overrule it, as a suite of plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaltk import datasets, plugins
from evaltk.cli import _flags, _suite
from evaltk.cli._resources import Resources
from evaltk.cli._suite import SuiteFile
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import SettingsError
from evaltk.running import cells, chosen
from evaltk.running.cells import Suite
from evaltk.running.planning import Plan

NAMED = ("checkpoints", "protocols", "data")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for.

    Attributes:
        suite: what is to be run. words: the checkpoints as they were named.
    """

    options: Any
    suite: Suite
    words: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether there is a checkpoint to run."""
        return any(plan.checkpoints for plan in self.suite.plans)


def asked(argv: list[str], command: str, doc: str | None, *, last: bool | None = None) -> Asked:
    """What a command line asks for; exits with 0 after help.

    Args:
        last: False: of trainings only what they kept by epoch; None: so it is with ``--watch``.

    Raises: EvaltkError.
    """
    if argv and _suite.is_suite(argv[0]):
        return _of_file(argv, command, doc, last)
    options = _flags.parse(argv, command, doc)
    suites = [word for word in options.checkpoints if _suite.is_suite(word)]
    if not suites:
        plan = _flags.plan_of(options)
        found = _expanded(plan.checkpoints, options, last)
        chosen.check_every(plan.checkpoints, every=options.every_checkpoint)
        suite = Suite(plans=(dataclasses.replace(plan, checkpoints=found),))
        return Asked(options=options, suite=suite, words=plan.checkpoints)
    return _of_file([suites[0], *(word for word in argv if word != suites[0])], command, doc, last)


def _expanded(words: Sequence[str], options: Any, last: bool | None) -> tuple[str, ...]:
    every = options.every_checkpoint or options.watch
    return chosen.expanded(words, every=every, last=not options.watch if last is None else last)


def _of_file(argv: list[str], command: str, doc: str | None, last: bool | None) -> Asked:
    """What a suite file, the first word, asks for with the flags after it."""
    path = Path(argv[0]).expanduser()
    flags = [f.name for f in dataclasses.fields(_flags.Options) if f.name not in NAMED]
    suite = _suite.read(path, flags)
    plugins.use([Path(word) for word in _listed(suite.flags.get("plugin", []))])
    told = _suite.Entry(name="evaltk run", given={k: v for k, v in suite.flags.items() if k != "plugin"})
    base = suite.parsed(_flags.Options, told, "top level", before=[str(path)])
    known = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    slurm = suite.parsed(Resources, _suite.Entry(name="slurm", given=suite.slurm), "slurm")
    empty = _flags.options_type()(**known | {"protocols": (), "data": (), "slurm_resources": slurm})
    options = _flags.parse(argv, command, doc, default=empty)
    if len(options.checkpoints) > 1:
        got = ", ".join(options.checkpoints)
        do = "name the checkpoints in it, or run them apart"
        raise SettingsError(wanted="one suite file alone", got=got, where=f"evaltk {command}", do=do)
    _check_alone(suite, options, empty)
    words = tuple(entry.name for entry in suite.checkpoints)
    return Asked(options=options, suite=_plans(suite, options, last), words=words)


def _plans(suite: SuiteFile, options: Any, last: bool | None) -> Suite:
    """The plans: those of each group of checkpoints, group of datasets and layer of protocols."""
    from protocols import registry

    layers = suite.layers({name: known.settings for name, known in registry().items()})
    nets = []
    for _, entries in _suite.groups(suite.checkpoints):
        words = _expanded([entry.name for entry in entries], options, last)
        nets.append((words, _suite.read_options(suite, entries[0], options.read_options())))
    chosen.check_every([entry.name for entry in suite.checkpoints], every=options.every_checkpoint)
    flags = DataFlags(**{f.name: getattr(options, f.name) for f in dataclasses.fields(DataFlags)})
    datasets.check_options([entry.name for entry in suite.data], DataOptions.of(flags, options.seed))
    data = []
    for _, entries in _suite.groups(suite.data):
        found = [_suite.data_flags(suite, entry, flags) for entry in entries]
        data.append((tuple(entry.name for entry in entries), DataOptions.of(found[0], options.seed)))
    common = _flags.plan_of(dataclasses.replace(options, protocols=("knn",), data=data[0][0]))
    made: list[Plan] = [
        dataclasses.replace(common, checkpoints=words, read=read, data=names, own=own, protocols=layer)
        for words, read in nets
        for names, own in data
        for layer in layers
    ]
    return Suite(plans=tuple(made), only=suite.only, without=suite.without, where=str(suite.path))


def _check_alone(suite: SuiteFile, options: Any, empty: Any) -> None:
    """What the file says of protocols and data is not overruled. Raises: SettingsError."""
    changed = [f.name for f in dataclasses.fields(options) if getattr(options, f.name) != getattr(empty, f.name)]
    for name in changed:
        if name in NAMED or name.endswith(_flags.SETTINGS_END):
            flag = f"--{name.removesuffix(_flags.SETTINGS_END)}"
            do = "change the file; matrix.only and matrix.except choose among its cells"
            raise SettingsError(wanted="protocols and data in the suite file", got=flag, where=str(suite.path), do=do)


def _listed(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def cells_of(asked: Asked) -> list[cells.Cell]:
    """The cells asked for. Raises: EvaltkError."""
    suite = asked.suite
    return cells.of_suite(suite) if suite.where else cells.of_plan(suite.plans[0])
