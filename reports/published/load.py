"""The numbers that papers and READMEs printed, from `published/*.csv`: one row per number, the folder is the registry.

What is in those files, and what is known to be wrong in the papers themselves, is in `published/README.md`.
"""

from __future__ import annotations

import csv
import functools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaltk.errors import SettingsError, nearest

FOLDER = Path(__file__).parent
COLUMNS = (
    "table", "task", "dataset", "metric", "arch", "method", "variant", "value", "std", "unit", "note", "source",
)  # fmt: skip
MORE_COLUMNS = ("beside", "apart", "position", "verified")  # which a file may leave out
MAY_BE_EMPTY = ("std", "note", *MORE_COLUMNS)
UNITS = ("%", "count")
# The DINO-vMF paper's appendix starts with Table 8. Its Table 11 is a 40-epoch rerun of ViT-S/8, so that the README's
# figure, not the appendix's, is the match of the public weights.
MAIN_TABLES = range(1, 8)
SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H", "giant": "g", "gigantic": "G"}
XCIT_SIZES = {"nano": "N", "tiny": "T", "small": "S", "medium": "M", "large": "L"}
NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One printed number.

    Attributes:
        table: number of the table in the paper (``"5"``), or the README and its section.
        task: what was done (``imagenet_knn``, ``vos``). dataset, metric: as the source names them.
        arch: ``ViT-S/16``. method: ``DINO-vMF``. variant: the setting that tells rows of one table apart.
        value: as printed, in `unit`. digits: decimals it was printed with.
        std: standard deviation printed beside it, or None. unit: ``%`` or ``count``.
        note: what else one must know. source: paper and table, or repository, commit, file and line.
        beside: of a protocol that no score here follows, the variant it is shown beside.
        apart: why the number is not comparable with ours; empty if it may be.
        position: the position rule it was measured with, ``-`` if the net has no positions to resize, or empty: the
            task's. verified: whether the number was read in its source.
    """

    table: str
    task: str
    dataset: str
    metric: str
    arch: str
    method: str
    variant: str
    value: float
    digits: int
    std: float | None
    unit: str
    note: str
    source: str
    beside: str = ""
    apart: str = ""
    position: str = ""
    verified: bool = True


@functools.cache
def load_published(folder: Path = FOLDER) -> tuple[Published, ...]:
    """All published numbers: the CSV files of `folder` by name, each from top to bottom.

    Raises: SettingsError: no file there, unreadable, a column too many or too few, a field that is empty or no number,
        a number given twice in one table; it names file and line.
    """
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise SettingsError(wanted="published numbers (*.csv)", got="none", where=folder, do="reinstall the package")
    return tuple(row for path in paths for row in _read(path))


def select_published(
    *,
    table: str | int | None = None,
    task: str | None = None,
    dataset: str | None = None,
    metric: str | None = None,
    arch: str | None = None,
    method: str | None = None,
    variant: str | None = None,
) -> tuple[Published, ...]:
    """The rows that equal every field given, in file order; all of them where none is given.

    `arch` may be as printed or timm's name.
    """
    wanted = {
        "table": None if table is None else str(table),
        "task": task,
        "dataset": dataset,
        "metric": metric,
        "arch": None if arch is None else arch_label(arch),
        "method": method,
        "variant": variant,
    }
    given = [(name, value) for name, value in wanted.items() if value is not None]
    return tuple(row for row in load_published() if all(getattr(row, name) == value for name, value in given))


def find_published(*, task: str, dataset: str, metric: str, arch: str, method: str, variant: str) -> Published | None:
    """The published match of a result, or None.

    `variant` is one that was printed, or ours that a row is `beside`. Where the number was printed more than once, the
    paper's main tables come before the READMEs, and these before its appendix.
    """
    return _by_key().get((task, dataset, metric, arch_label(arch), method, variant))


def arch_label(name: str, *, registers: int = 0) -> str:
    """An architecture as papers write it: ``vit_small_patch16_224`` -> ``ViT-S/16``; other names come back unchanged.

    The image size and a timm tag are left out: they are settings of a run, not part of the net's name in print.

    Args:
        name: timm's name, or one spelled out. registers: register tokens of the net, where its name does not tell.
    """
    stem = name.split(".")[0]
    if m := re.fullmatch(r"vit_([a-z]+)_patch(\d+)(?:_reg(\d+))?(?:_\d+|_dinov2)?", stem):
        size, tokens = SIZES.get(m[1]), int(m[3] or registers)
        return f"ViT-{size}/{m[2]}" + (f" reg{tokens}" if tokens else "") if size else name
    if m := re.fullmatch(r"xcit_([a-z]+)_(\d+)_p(\d+)(?:_\d+)?", stem):
        size = XCIT_SIZES.get(m[1])
        return f"XCiT-{size}{m[2]}/{m[3]}" if size else name
    if m := re.fullmatch(r"resnet(\d+)", stem):
        return f"ResNet-{m[1]}"
    return name


@functools.cache
def _by_key() -> dict[tuple[str, ...], Published]:
    """{(task, dataset, metric, arch, method, variant): the row that comes first}; reports look up thousands."""
    found: dict[tuple[str, ...], Published] = {}
    for row in sorted(load_published(), key=_rank):
        for variant in filter(None, (row.variant, row.beside)):
            found.setdefault((row.task, row.dataset, row.metric, row.arch, row.method, variant), row)
    return found


@functools.cache
def weights() -> dict[str, tuple[str, str]]:
    """{catalogue name: (method, architecture) in print} of the files that published numbers are of: `weights.toml`."""
    methods = tomllib.loads((FOLDER / "weights.toml").read_text(encoding="utf-8"))
    return {name: (method, arch) for method, nets in methods.items() for arch, names in nets.items() for name in names}


def _rank(row: Published) -> tuple[int, int]:
    if not row.table.isdecimal():
        return 1, 0
    number = int(row.table)
    return (0 if number in MAIN_TABLES else 2), number


def _read(path: Path) -> Iterator[Published]:
    seen: dict[tuple[str, ...], int] = {}
    for line, fields in _lines(path):
        row = _row(fields, f"{path}:{line}")
        key = (row.table, row.task, row.dataset, row.metric, row.arch, row.method, row.variant)
        if key in seen:
            got = f"the one of line {seen[key]} again"
            raise SettingsError(wanted="each number once per table", got=got, where=f"{path}:{line}", do="remove one")
        seen[key] = line
        yield row


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, {column: text}) of every row below a header that names our columns, in any order."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            _check_header(header, path)
            for cells in reader:
                if len(cells) != len(header):
                    raise SettingsError(
                        wanted=f"{len(header)} fields",
                        got=str(len(cells)),
                        where=f"{path}:{reader.line_num}",
                        do="put fields that hold a comma in double quotes",
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        where = f"{path}:{reader.line_num}"
        raise SettingsError(wanted="comma-separated text", got=str(error), where=where, do="fix the quotes") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            wanted="a CSV file in UTF-8", got=str(error), where=path, do="fix or reinstall the file"
        ) from error


def _check_header(header: Sequence[str], path: Path) -> None:
    missing = [c for c in COLUMNS if c not in header]
    odd = [c for c in header if c not in (*COLUMNS, *MORE_COLUMNS)]
    if missing or odd or len(header) != len(set(header)):
        do = "; ".join(f"{c!r}: {nearest(c, COLUMNS)}" for c in odd) or "name each column once in the first line"
        got = f"missing {missing}, unknown {odd}" if missing or odd else f"{len(header)} columns, some twice"
        raise SettingsError(wanted=f"the columns {', '.join(COLUMNS)}", got=got, where=f"{path}:1", do=do)


def _row(fields: dict[str, str], where: str) -> Published:
    for name, text in fields.items():
        if name not in MAY_BE_EMPTY and not text.strip():
            raise SettingsError(wanted=f"a {name}", got="nothing", where=where, do="fill the field")
    unit = fields.pop("unit")
    if unit not in UNITS:
        raise SettingsError(wanted="the unit % or count", got=repr(unit), where=where, do=nearest(unit, UNITS))
    if (verified := fields.pop("verified", "")) not in ("", "no"):
        raise SettingsError(wanted="no, or nothing, as verified", got=repr(verified), where=where, do="correct it")
    text, spread = fields.pop("value"), fields.pop("std")
    value = _number(text, "value", unit, where)
    return Published(
        **fields,
        unit=unit,
        value=value,
        digits=len(text.partition(".")[2]),
        std=_number(spread, "std", unit, where) if spread else None,
        verified=not verified,
    )


def _number(text: str, column: str, unit: str, where: str) -> float:
    """The number a field holds. Plain digits only: float() would take `nan`, `1e3` and `7_4` for numbers too."""
    if not NUMBER.fullmatch(text) or (unit == "count" and "." in text):
        wanted = "a whole number" if unit == "count" else "a number in plain digits"
        raise SettingsError(wanted=f"{wanted} as {column}", got=repr(text), where=where, do="write it as printed")
    number = float(text)
    if unit == "%" and number > 100:
        raise SettingsError(wanted=f"a {column} of 0 to 100 %", got=text, where=where, do="write it as printed")
    return number
