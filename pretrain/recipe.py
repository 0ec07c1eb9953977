"""A recipe: everything a training run depends on, read from TOML with overrides. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evaltk import safe_toml
from evaltk.errors import SettingsError, nearest
from pretrain import methods
from pretrain.data.loader import Data
from pretrain.data.views import Views
from pretrain.method import Rule
from pretrain.method import Settings as MethodSettings
from pretrain.optim import Optim
from pretrain.recipe_names import path_of

LARGEST, LARGEST_INT = sys.float_info.max, 2**63 - 1
SECTION = "write [section]"


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
        save_minutes: between checkpoints. keep_every: epochs between checkpoints that are kept; keep_last: how many of
            the others. disk_minutes: how long a full or slow disk is waited for; patience_minutes: how long a process
            may take for one thing before all are ended.
        log_every: steps between log lines; monitor_every: steps between lines with k-NN and prototype statistics.
        compile: fuse the blocks' operations by torch.compile, on CUDA alone; where that fails, a note says so.
        knn: training images used for the k-NN accuracy in the log (0: none).
    """

    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    seed: int = 0
    workers: int = -1
    accumulate: int = 1
    compile: bool = True
    save_minutes: float = 20.0
    keep_every: int = 20
    keep_last: int = 2
    disk_minutes: float = 10.0
    patience_minutes: float = 60.0
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


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by bundled name or path, with ``section.key=value`` overrides (values in TOML's notation).

    Raises: SettingsError: no such recipe, unknown key, wrong type, value out of range.
    """
    path = path_of(name)
    try:
        table = safe_toml.read(path)
    except ValueError as error:
        raise SettingsError(
            wanted="TOML in UTF-8", got=str(error)[:120], where=path, do="fix the TOML syntax"
        ) from error
    for word in overrides:
        key, eq, text = word.partition("=")
        section, dot, leaf = key.strip().partition(".")
        if not eq or not dot:
            raise SettingsError(
                wanted="section.key=value", got=repr(word), where="--set", do="e.g. --set optim.epochs=100"
            )
        if not isinstance(table.setdefault(section, {}), dict):
            raise SettingsError(wanted="a table", got=_shown(table[section]), where=f"{path}, {section}", do=SECTION)
        table[section][leaf] = _value(text)
    try:
        recipe = _build(Recipe, table | {"name": path.stem}, str(path))
        check(recipe)
    except SettingsError as error:
        if not overrides:
            raise
        load(name)  # raises, where the recipe itself is at fault
        where, do = f"--set {shlex.join(overrides)}", error.do if "there are" in error.do else "change it there"
        raise SettingsError(wanted=error.wanted, got=error.got, where=where, do=do) from error
    return recipe


def _value(text: str) -> Any:
    try:
        return safe_toml.parse(f"v = {text}")["v"]
    except ValueError:
        return text  # a bare word is a string


def _shown(value: object) -> str:
    return repr(value)[:80]  # a table's repr may be long


def _build(kind: type, table: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = [key for key in table if key not in hints]
    if unknown:
        raise SettingsError(wanted="a known key", got=_shown(unknown[0]), where=where, do=nearest(unknown[0], hints))
    return kind(**{key: _fit(hints[key], value, f"{where}, {key}") for key, value in table.items()})


def _fit(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type a field is annotated with. Raises: SettingsError: it is of another type."""
    if hint is MethodSettings and isinstance(value, Mapping):
        hint = methods.get(str(value.get("name", MethodSettings().name))).settings
    if types.NoneType in typing.get_args(hint):  # a setting that may be left out
        (hint,) = (one for one in typing.get_args(hint) if one is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SettingsError(wanted="a table", got=_shown(value), where=where, do=SECTION)
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
        raise SettingsError(wanted=wanted, got=_shown(value), where=where, do="change the value")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= LARGEST:  # neither NaN, nor infinity, nor a whole number too large for a float
            return float(value)
        wanted = "a finite number"
        raise SettingsError(wanted=wanted, got=_shown(value), where=where, do="change the value")
    elif hint in (int, str, bool) and type(value) is hint:
        if hint is int and abs(value) > LARGEST_INT:
            wanted = "a whole number of 64 bits"
            raise SettingsError(wanted=wanted, got=_shown(value), where=where, do="change the value")
        return value
    raise SettingsError(
        wanted=getattr(hint, "__name__", str(hint)), got=_shown(value), where=where, do="change the value"
    )


def check(recipe: Recipe) -> None:
    """Raises: SettingsError: a value out of range, or one that the method rules out."""
    rules: list[Rule] = [*_rules_of_training(recipe), *_rules_of_views(recipe.views)]
    for holds, wanted, got in rules:
        if not holds:
            raise SettingsError(
                wanted=wanted, got=str(got), where=f"recipe {recipe.name}",
                do="change the value in the recipe or with --set section.key=value",
            )  # fmt: skip


def _rules_of_training(recipe: Recipe) -> list[Rule]:
    m, v, o, r = recipe.method, recipe.views, recipe.optim, recipe.run
    temperatures = (m.student_temp, m.teacher_temp, m.teacher_temp_end)
    every = (r.log_every, r.monitor_every, r.keep_every)
    decays = (o.start_lr, o.min_lr, o.weight_decay, o.weight_decay_end)
    return [
        (m.num_prototypes >= 2, "method.num_prototypes >= 2", m.num_prototypes),
        (m.num_prototypes <= 1 << 24, "method.num_prototypes <= 2^24", m.num_prototypes),
        (1 <= min(m.hidden, m.bottleneck) <= max(m.hidden, m.bottleneck) <= 1 << 16,
         "method.hidden, bottleneck from 1 to 65536", (m.hidden, m.bottleneck)),
        (m.num_prototypes * m.bottleneck + m.hidden**2 <= 1 << 32, "a head of at most 2^32 weights",
         (m.num_prototypes, m.bottleneck, m.hidden)),
        (min(temperatures) > 0 and m.teacher_temp_warmup >= 0, "temperatures > 0, teacher_temp_warmup >= 0",
         (*temperatures, m.teacher_temp_warmup)),
        (0 <= m.center_momentum < 1, "method.center_momentum in [0, 1)", m.center_momentum),
        *((holds, f"{wanted} for {m.name}", got) for holds, wanted, got in methods.get(m.name).rules(m, v)),
        (0 <= recipe.net.drop_path < 1, "net.drop_path in [0, 1)", recipe.net.drop_path),
        (min(recipe.data.std) > 0 and recipe.data.skip_bad_images >= 0, "data.std > 0, skip_bad_images >= 0",
         (*recipe.data.std, recipe.data.skip_bad_images)),
        (recipe.data.split_seed is None or recipe.data.split_seed >= 0, "data.split_seed >= 0", recipe.data.split_seed),
        (o.epochs >= 1 and o.batch >= 1 and r.accumulate >= 1, "epochs, batch, accumulate >= 1",
         (o.epochs, o.batch, r.accumulate)),
        (0 <= o.warmup_epochs <= o.epochs, "optim.warmup_epochs in [0, optim.epochs]", o.warmup_epochs),
        (o.lr > 0 and o.clip >= 0 and o.stretch >= 1, "optim.lr > 0, clip >= 0, stretch >= 1",
         (o.lr, o.clip, o.stretch)),
        (min(decays) >= 0, "optim.start_lr, min_lr, weight_decay, weight_decay_end >= 0", decays),
        (o.freeze_last_layer >= 0, "optim.freeze_last_layer >= 0", o.freeze_last_layer),
        (0 <= o.momentum <= 1 and 0 <= o.momentum_end <= 1, "optim.momentum in [0, 1]", (o.momentum, o.momentum_end)),
        (min(every) >= 1 and r.save_minutes >= 0, "run.log_every, monitor_every, keep_every >= 1, save_minutes >= 0",
         (*every, r.save_minutes)),
        (1 <= r.keep_last <= 1000, "run.keep_last from 1 to 1000", r.keep_last),
        (r.disk_minutes >= 0 and r.patience_minutes > 0, "run.disk_minutes >= 0, patience_minutes > 0",
         (r.disk_minutes, r.patience_minutes)),
        (r.workers >= -1 and r.knn >= 0, "run.workers >= -1, knn >= 0", (r.workers, r.knn)),
    ]  # fmt: skip


def _rules_of_views(v: Views) -> list[Rule]:
    sizes, shares = (v.global_size, v.local_size), (v.global_scale, v.local_scale)
    chances = (v.jitter_prob, v.gray_prob, v.flip_prob, *v.blur, *v.solarize)
    return [
        (v.num_global >= 1 and v.num_local >= 0, "views.num_global >= 1, num_local >= 0", (v.num_global, v.num_local)),
        (v.decode == "workers" or v.where == "device", "views.where = device with views.decode = device", v.where),
        (v.num_global + v.num_local <= 1000, "at most 1000 views", (v.num_global, v.num_local)),
        (1 <= min(sizes) <= max(sizes) <= 8192, "views.global_size, local_size from 1 to 8192", sizes),
        (all(0 < low <= high <= 1 for low, high in shares), "views.global_scale, local_scale: 0 < low <= high <= 1",
         shares),
        (all(0 <= chance <= 1 for chance in chances), "probabilities in [0, 1]", chances),
        (min(v.jitter) >= 0 and v.jitter[3] <= 0.5, "views.jitter >= 0, of the hue <= 0.5", v.jitter),
        (0 <= v.blur_radius[0] <= v.blur_radius[1], "views.blur_radius: 0 <= low <= high", v.blur_radius),
    ]  # fmt: skip
