"""A recipe: everything a training run depends on, read from TOML with overrides. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evaltk.errors import SettingsError, nearest
from pretrain import methods
from pretrain.data.loader import Data
from pretrain.data.views import Views
from pretrain.method import Rule
from pretrain.method import Settings as MethodSettings
from pretrain.optim import Optim


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """The backbone: arch as in `random:ARCH`; drop_path: of the student's last block, linear over depth."""

    arch: str = "vit_small_patch16_224"
    drop_path: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How it is run; only seed and precision change the result beyond rounding.

    Attributes:
        workers: processes that decode images (-1: one per core). accumulate: micro-batches per step.
        save_minutes: between checkpoints. keep_every: epochs between checkpoints that are kept.
        log_every: steps between log lines; monitor_every: steps between lines with k-NN and prototype statistics.
        knn: training images used for the k-NN accuracy in the log (0: none).
    """

    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    seed: int = 0
    workers: int = -1
    accumulate: int = 1
    compile: bool = False
    save_minutes: float = 20.0
    keep_every: int = 20
    log_every: int = 50
    monitor_every: int = 2000
    knn: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole recipe; `name` is its file's."""

    name: str = "recipe"
    method: MethodSettings = field(default_factory=MethodSettings)
    net: Net = field(default_factory=Net)
    data: Data = field(default_factory=Data)
    views: Views = field(default_factory=Views)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


def names() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(p.stem for p in (Path(__file__).parent / "recipes").glob("*.toml"))


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by bundled name or path, with ``section.key=value`` overrides (values in TOML's notation).

    Raises: SettingsError: no such recipe, unknown key, wrong type, value out of range.
    """
    path = Path(name) if name.endswith(".toml") else Path(__file__).parent / "recipes" / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            wanted="a bundled recipe or a .toml file", got=repr(name), where=path, do=nearest(name, names())
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(wanted="TOML", got=str(error), where=path, do="fix the TOML syntax") from error
    for word in overrides:
        key, eq, text = word.partition("=")
        section, dot, leaf = key.strip().partition(".")
        if not eq or not dot:
            raise SettingsError(
                wanted="section.key=value", got=repr(word), where="--set", do="e.g. --set optim.epochs=100"
            )
        table.setdefault(section, {})[leaf] = _value(text)
    recipe = _build(Recipe, table | {"name": path.stem}, str(path))
    check(recipe)
    return recipe


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _build(kind: type, table: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = [key for key in table if key not in hints]
    if unknown:
        raise SettingsError(wanted="a known key", got=repr(unknown[0]), where=where, do=nearest(unknown[0], hints))
    return kind(**{key: _fit(hints[key], value, f"{where}, {key}") for key, value in table.items()})


def _fit(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type a field is annotated with. Raises: SettingsError: it is of another type."""
    if hint is MethodSettings and isinstance(value, Mapping):
        hint = methods.get(str(value.get("name", MethodSettings().name))).settings
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SettingsError(wanted="a table", got=repr(value), where=where, do="write [section]")
        return _build(typing.cast(type, hint), value, where)
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)
        kinds = [inner[0]] * len(value) if Ellipsis in inner else list(inner)
        if len(kinds) == len(value):
            return tuple(_fit(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif typing.get_origin(hint) is Literal:
        if value in typing.get_args(hint):
            return value
        wanted = " or ".join(map(str, typing.get_args(hint)))
        raise SettingsError(wanted=wanted, got=repr(value), where=where, do="change the value")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise SettingsError(
        wanted=getattr(hint, "__name__", str(hint)), got=repr(value), where=where, do="change the value"
    )


def check(recipe: Recipe) -> None:
    """Raises: SettingsError: a value out of range, or one that the method rules out."""
    m, v, o, r = recipe.method, recipe.views, recipe.optim, recipe.run
    temperatures = (m.student_temp, m.teacher_temp, m.teacher_temp_end)
    rules: list[Rule] = [
        (m.num_prototypes >= 2, "method.num_prototypes >= 2", m.num_prototypes),
        (min(temperatures) > 0, "temperatures > 0", temperatures),
        (0 <= m.center_momentum < 1, "method.center_momentum in [0, 1)", m.center_momentum),
        (v.num_global >= 1 and v.num_local >= 0, "views.num_global >= 1, num_local >= 0", (v.num_global, v.num_local)),
        *((holds, f"{wanted} for {m.name}", got) for holds, wanted, got in methods.get(m.name).rules(m, v)),
        (o.epochs >= 1 and o.batch >= 1 and r.accumulate >= 1, "epochs, batch, accumulate >= 1",
         (o.epochs, o.batch, r.accumulate)),
        (0 <= o.warmup_epochs <= o.epochs, "optim.warmup_epochs in [0, optim.epochs]", o.warmup_epochs),
        (o.lr > 0 and o.clip >= 0 and o.stretch >= 1, "optim.lr > 0, clip >= 0, stretch >= 1",
         (o.lr, o.clip, o.stretch)),
        (0 <= o.momentum <= 1 and 0 <= o.momentum_end <= 1, "optim.momentum in [0, 1]", (o.momentum, o.momentum_end)),
    ]  # fmt: skip
    for holds, wanted, got in rules:
        if not holds:
            raise SettingsError(
                wanted=wanted, got=str(got), where=f"recipe {recipe.name}",
                do="change the value in the recipe or with --set section.key=value",
            )  # fmt: skip
