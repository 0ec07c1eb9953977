"""A suite file: groups of trainings that differ in the axes of the group alone, each with the same seeds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaltk.errors import SettingsError, nearest
from evaltk.types import digest
from pretrain import recipe as recipes
from pretrain.recipe import Recipe

FOLDER = Path(__file__).parent / "suites"
MEASURES = ("knn", "fewshot", "precision", "prototypes", "centre")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training with one seed.

    Attributes:
        group: of the suite. values: {axis: its value}, in the group's order. seed: of the training; cells of one seed
            see the same images and views in the same order.
        overrides: of the recipe, axes and seed included.
        measures: what is measured at the end.
    """

    suite: str
    group: str
    values: Mapping[str, Any]
    seed: int
    recipe: str
    overrides: tuple[str, ...]
    measures: tuple[str, ...]

    @property
    def name(self) -> str:
        """A file name that no other cell of the suite has."""
        told = "_".join(f"{axis.rpartition('.')[2]}={value}" for axis, value in self.values.items())
        return f"{self.group}_{told}_seed={self.seed}".replace("/", "-")

    def load(self) -> Recipe:
        """The recipe of the training. Raises: SettingsError: an unknown key or a value out of range."""
        return recipes.load(self.recipe, self.overrides)

    def identity(self) -> str:
        """Digest of everything that decides the cell's result."""
        told = dataclasses.asdict(self.load()) | {"name": ""}
        return digest({"recipe": told, "measures": list(self.measures)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite file.

    Attributes:
        data: word of ``--data`` of trainings and measures. cost: whether the cost of the constant is timed.
        chosen: how the settings were chosen, for the page.
    """

    name: str
    data: str
    chosen: str
    cells: tuple[Cell, ...]
    cost: bool


def names() -> list[str]:
    """The suites there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, data: str | None = None) -> Suite:
    """A suite by name or path; `data` takes the place of the file's. Raises: SettingsError: none such."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        return _suite(path.stem, found, data or found["data"])
    except OSError as error:
        do = nearest(name, names())
        raise SettingsError(wanted="an evidence suite", got=repr(name), where=path, do=do) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"[:120]
        do = "compare it with suites/digits.toml"
        raise SettingsError(wanted="a suite file", got=got, where=path, do=do) from error


def _suite(name: str, found: Mapping[str, Any], data: str) -> Suite:
    cells = [cell for group in found["group"] for cell in _cells(name, found, group, data)]
    doubled = len(cells) - len({cell.name for cell in cells})
    if doubled:
        raise ValueError(f"{doubled} cells of the same name")
    return Suite(name=name, data=data, chosen=found["chosen"], cells=tuple(cells), cost=bool(found.get("cost")))


def _cells(suite: str, found: Mapping[str, Any], group: Mapping[str, Any], data: str) -> list[Cell]:
    measures = tuple(group["measures"])
    if unknown := set(measures) - set(MEASURES):
        raise ValueError(f"unknown measure {sorted(unknown)[0]}; there are: {', '.join(MEASURES)}")
    base = [*found["settings"], *group.get("settings", [])]
    made = []
    # Seed by seed: an interrupted run leaves whole comparisons.
    for seed in found["seeds"]:
        for values in itertools.product(*group["axes"].values()):
            named = dict(zip(group["axes"], values, strict=True))
            words = [f"{axis}={json.dumps(value)}" for axis, value in named.items()]
            overrides = (*base, *words, f"run.seed={seed}", f'data.source="{data}"')
            made.append(
                Cell(
                    suite=suite,
                    group=group["name"],
                    values=named,
                    seed=seed,
                    recipe=found["recipe"],
                    overrides=overrides,
                    measures=measures,
                )
            )
    return made
