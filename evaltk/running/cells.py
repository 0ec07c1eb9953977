"""A suite of plans, and its cells: the results of all of them, each once, without those that its matrix leaves out."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evaltk import datasets
from evaltk.bench import AnyDataset
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.data import limits
from evaltk.data.options import DataOptions
from evaltk.errors import SettingsError, nearest
from evaltk.progress import log
from evaltk.running import planning
from evaltk.running.planning import Job, Named, Plan, identify, known_protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of ``matrix.only`` or ``matrix.except``: patterns (``dino*``), any of which may match; () matches all."""

    checkpoint: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    def matches(self, checkpoint: Iterable[str], protocol: str, data: str) -> bool:
        """Whether it is about a cell. checkpoint: its names."""
        return _any(self.checkpoint, checkpoint) and _any(self.protocol, (protocol,)) and _any(self.data, (data,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What is to be run: the cells of all plans that a rule of `only` matches, if there is one, but of no `without`.

    The plans have the same folders, machine and images, and differ in checkpoints, data and settings of protocols.
    `where` is the file that says so; empty for flags, which make one plan.
    """

    plans: tuple[Plan, ...]
    only: tuple[Rule, ...] = ()
    without: tuple[Rule, ...] = ()
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One result to be, and the plan that it is of."""

    plan: Plan
    job: Job

    @property
    def net(self) -> tuple[str, ReadOptions]:
        """Cells with the same are of one net."""
        return self.job.checkpoint, self.plan.read

    def wanted(self) -> bool:
        """Whether it is still to be run."""
        return self.plan.again or not self.job.done()

    def title(self) -> str:
        """What it is, in a few words."""
        return f"{self.job.protocol} of {self.job.name} on {self.job.dataset.name}"


def of_plan(plan: Plan) -> list[Cell]:
    """The cells of one plan, in its order. Raises: as `planning.jobs`."""
    return [Cell(plan=plan, job=job) for job in planning.jobs(plan)]


def of_suite(suite: Suite) -> list[Cell]:
    """The cells of a suite, each once, in order of checkpoints, datasets, protocols; nothing is run or loaded.

    Raises: SettingsError, DataError, CheckpointError: a name, layout or file that will not do, a rule that is about
        nothing, no cell at all.
    """
    for name in dict.fromkeys(name for plan in suite.plans for name in plan.protocols):
        known_protocol(name)
    named = _named(suite.plans)
    found = _data(suite.plans)
    everything = [dataset for group in found.values() for dataset in group]
    planning.check_labels_apart(everything)
    planning.check_kinds(dict.fromkeys(name for plan in suite.plans for name in plan.protocols), everything)
    _check_rules(suite, [n for group in named.values() for n in group], everything)
    made: dict[str, Cell] = {}
    twice = 0
    for plan in suite.plans:
        names = named[plan.checkpoints, plan.read]
        keep = _keep(suite, {word: name for word, name, _ in names})
        words = planning.labels(plan.data)
        for job in planning.jobs_of(plan, names, found[plan.data, plan.own], words, keep):
            twice += str(job.path) in made
            made.setdefault(str(job.path), Cell(plan=plan, job=job))
    if twice:
        log.info("%d cells are asked for twice and run once", twice)
    if not made:
        do = "see matrix.only and matrix.except"
        raise SettingsError(wanted="at least one cell", got="none", where=suite.where, do=do)
    nets = {net: n for n, net in enumerate(dict.fromkeys(cell.net for cell in made.values()))}
    places = {dataset.name: n for n, dataset in enumerate(everything)}
    return sorted(made.values(), key=lambda cell: (nets[cell.net], places[cell.job.dataset.name]))


def _named(plans: Sequence[Plan]) -> dict[tuple[tuple[str, ...], ReadOptions], list[Named]]:
    """The checkpoints of each plan; a file is hashed once, however often it is named."""
    known: dict[tuple[str, ReadOptions], Named] = {}
    found = {}
    for plan in plans:
        for word in dict.fromkeys(plan.checkpoints):
            if (word, plan.read) not in known:
                known[word, plan.read] = (word, *identify(word, plan.read))
        found[plan.checkpoints, plan.read] = [known[word, plan.read] for word in dict.fromkeys(plan.checkpoints)]
    return found


def _data(plans: Sequence[Plan]) -> dict[tuple[tuple[str, ...], DataOptions], list[AnyDataset]]:
    """The datasets of each plan; one object for each word, by which cells know that they share it."""
    known: dict[tuple[str, DataOptions], Any] = {}
    found = {}
    for plan in plans:
        for word in dict.fromkeys(plan.data):
            if (word, plan.own) not in known:
                dataset = datasets.load(word, plan.own)
                limit = plan.limit
                known[word, plan.own] = dataset if limit is None else limits.limited(dataset, limit, plan.seed)
        found[plan.data, plan.own] = [known[word, plan.own] for word in dict.fromkeys(plan.data)]
    return found


def _keep(suite: Suite, names: dict[str, str]) -> Callable[[str, str, AnyDataset], bool]:
    def keep(checkpoint: str, protocol: str, dataset: AnyDataset) -> bool:
        cell = ((checkpoint, names[checkpoint]), protocol, dataset.name)
        asked = not suite.only or any(rule.matches(*cell) for rule in suite.only)
        return asked and not any(rule.matches(*cell) for rule in suite.without)

    return keep


def _check_rules(suite: Suite, named: Sequence[Named], found: Sequence[AnyDataset]) -> None:
    """Raises: SettingsError: a pattern that is about nothing in the suite, most likely misspelt."""
    known = {
        "checkpoint": sorted({text for word, name, _ in named for text in (word, name)}),
        "protocol": sorted({name for plan in suite.plans for name in plan.protocols}),
        "data": sorted({dataset.name for dataset in found}),
    }
    for title, rules in (("matrix.only", suite.only), ("matrix.except", suite.without)):
        for rule in rules:
            for field, names in known.items():
                for pattern in getattr(rule, field):
                    if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                        wanted, got = f"a {field} of this suite", repr(pattern)
                        where = f"{suite.where}: {title}"
                        raise SettingsError(wanted=wanted, got=got, where=where, do=nearest(pattern, names))


def _any(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
