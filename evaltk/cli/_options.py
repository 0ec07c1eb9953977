"""Options of a subcommand: a dataclass, parsed by tyro, whose help takes one or two lines per flag."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from evaltk import arguments

Options = TypeVar("Options")
WIDTH = 80
COLUMN = 27  # where the text of a flag begins
LONGEST = 20  # characters of choices that are shown in place of NAME
COLOUR = tuple[float, float, float]
METAVARS = {str: "NAME", int: "N", float: "X", Path: "PATH", bool: "True|False", COLOUR: "R G B"}
HELP = ("-h", "--help")
EVERYWHERE = "every command: -q, --quiet (errors and results only); -v, --verbose"


def parse(
    options: type[Options],
    argv: Sequence[str],
    command: str,
    doc: str | None,
    *,
    groups: Mapping[str, str] | None = None,
    default: Options | None = None,
) -> Options:
    """The options that the arguments of ``evaltk command`` stand for; exits with 0 after help.

    Args:
        options: a dataclass. Help takes the texts of its flags from ``Attributes:`` in its docstring and in those of
            its bases; a field's metadata may hold its ``metavar``.
        doc: docstring of the subcommand: what it does, then ``Examples:``.
        groups: {name of a base class: heading of its flags}, in the order of the help; flags of other classes stand
            under ``options``.
        default: what holds where the arguments say nothing.

    Raises: SettingsError: a flag that is unknown, missing, or has a value of another kind.
    """
    if any(word in HELP for word in argv):
        show(usage(options, command, doc, groups=groups))
    return arguments.parse(options, argv, f"evaltk {command}", doc, default=default)


def show(text: str) -> None:
    """Print a help text and exit with 0."""
    print(text, flush=True)  # flushed here, so that a closed pipe (`| head`) is noticed by `cli.main`
    sys.exit(0)


def usage(
    options: type, command: str, doc: str | None, *, groups: Mapping[str, str] | None = None, more: Sequence[str] = ()
) -> str:
    """The help of a subcommand. more: lines shown between its flags and the examples."""
    groups = groups or {}
    fields = [f for f in dataclasses.fields(options) if not dataclasses.is_dataclass(_bare(options, f))]
    positional = {f.name for f in fields if _positional(options, f)}
    words = " ".join(metavar(options, f, positional=True) for f in fields if f.name in positional)
    texts, owners = attributes(options), _owners(options)
    headed: dict[str, list[Field[Any]]] = {title: [] for title in (*groups.values(), "options")}
    for field in fields:
        headed[groups.get(owners[field.name], "options")].append(field)
    about, _, examples = inspect.cleandoc(doc or "").partition("Examples:")
    lines = [*wrapped(f"usage: evaltk {command} {words + ' ' if words else ''}[options]"), ""]
    for paragraph in about.strip().split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), WIDTH), ""]
    for title, mine in headed.items():
        if mine:
            mine.sort(key=lambda f: f.name not in positional)
            lines += [f"{title}:", *flags(options, mine, texts, positional=positional), ""]
    lines += [*more, EVERYWHERE]
    return "\n".join([*lines, *_examples(examples)]).rstrip()


def settings(options: type, prefix: str) -> list[str]:
    """Help lines of a nested dataclass: its flags are ``--prefix.name``."""
    return list(flags(options, dataclasses.fields(options), attributes(options), prefix=f"{prefix}."))


def flags(
    options: type,
    fields: Sequence[Field[Any]],
    texts: Mapping[str, str],
    *,
    positional: Collection[str] = (),
    prefix: str = "",
) -> Iterator[str]:
    """Lines of help for the fields: the flag and what it takes, what it is for, its default."""
    for field in fields:
        at_place = field.name in positional
        name, takes = field.name.replace("_", "-"), metavar(options, field, positional=at_place)
        both = "[no-]" if _bare(options, field) is bool and field.default is True else ""
        dashed = f"--{prefix}{both}{name}"
        left = takes if at_place else f"{dashed} {takes}".rstrip()
        text = _with_default(options, field, texts.get(field.name, "").removesuffix("."))
        rows = textwrap.wrap(text, WIDTH - COLUMN, break_on_hyphens=False, break_long_words=False) or [""]
        if len(left) + 4 > COLUMN:
            yield from textwrap.wrap(left, WIDTH - 4, initial_indent="  ", subsequent_indent="      ")
        else:
            yield f"  {left}".ljust(COLUMN) + rows.pop(0)
        yield from (" " * COLUMN + row for row in rows)


def metavar(options: type, field: Field[Any], *, positional: bool = False) -> str:
    """What a flag takes, in a word: ``PATH``, ``N``, ``NAME ...``, ``fp32|bf16``; empty for a switch."""
    if "metavar" in field.metadata:
        return str(field.metadata["metavar"])
    hint = _bare(options, field)
    if hint is bool:
        return ""
    takes = _metavar(hint)
    return re.sub("NAME|PATH", field.name.upper(), takes) if positional else takes


def _metavar(hint: Any) -> str:
    if hint in METAVARS:
        return METAVARS[hint]
    if get_origin(hint) is Literal:
        choices = "|".join(map(str, get_args(hint)))
        return choices if len(choices) <= LONGEST else "NAME"
    if get_origin(hint) in (Union, UnionType):
        return "|".join(_metavar(one) for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is tuple:
        first, *rest = get_args(hint)
        return f"{_metavar(first)} ..." if rest == [...] else " ".join(map(_metavar, (first, *rest)))
    return "VALUE"


def attributes(options: type) -> dict[str, str]:
    """{field: its text}, from ``Attributes:`` in the docstrings of a dataclass and its bases.

    Several fields may share a line of the docstring: ``low: .. high: ..``.
    """
    names = "|".join(sorted((f.name for f in dataclasses.fields(options)), key=len, reverse=True))
    starts = re.compile(rf"(?:^|(?<=[.;)] ))({names}): ")
    texts: dict[str, str] = {}
    for cls in reversed(options.__mro__):
        said = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:")[2].partition("\n\n")[0]
        entries = re.split(r"\n {4}(?=\S)", "\n" + textwrap.indent(textwrap.dedent(said.lstrip("\n")), "    "))
        for entry in entries:
            _, *parts = starts.split(" ".join(entry.split()))
            texts |= {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}
    return texts


def _owners(options: type) -> dict[str, str]:
    """{field: name of the class that declares it}."""
    return {name: cls.__name__ for cls in reversed(options.__mro__) for name in inspect.get_annotations(cls)}


def _bare(options: type, field: Field[Any]) -> Any:
    """The field's type without markers and without None where another type remains."""
    hint = field.type if not isinstance(field.type, str) else get_type_hints(options, include_extras=True)[field.name]
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def is_switch(options: type, field: Field[Any]) -> bool:
    """Whether a field is a flag without a value: ``--json``."""
    return _bare(options, field) is bool


def _positional(options: type, field: Field[Any]) -> bool:
    if "tyro" not in sys.modules:  # then no field can be marked by it
        return False
    import tyro

    hint = get_type_hints(options, include_extras=True)[field.name]
    return get_origin(hint) is Annotated and tyro.conf.Positional in hint.__metadata__


def _with_default(options: type, field: Field[Any], text: str) -> str:
    """The text of a field with the choices that neither it nor the metavar names, and its default."""
    choices = [str(one) for one in _choices(_bare(options, field))]
    if "metavar" not in field.metadata and len("|".join(choices)) > LONGEST and any(one not in text for one in choices):
        text = f"{text}: {', '.join(choices)}"
    value = field.default
    if re.search(r"\bdefault:", text) or value is MISSING or value is None or value is False or value == ():
        return text
    words = [f"{v:g}" if isinstance(v, float) else str(v) for v in (value if isinstance(value, tuple) else (value,))]
    return f"{text} (default: {'on' if value is True else ' '.join(words)})".lstrip()


def _choices(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for one in get_args(hint) for choice in _choices(one))


def _examples(text: str) -> list[str]:
    """The examples, long ones continued on a second line as a shell takes it."""
    lines = []
    for example in textwrap.dedent(text.strip("\n")).splitlines():
        rows = wrapped(example, WIDTH - 4)
        lines += [f"  {row} \\" for row in rows[:-1]] + [f"  {row}" for row in rows[-1:]]
    return ["", "examples:", *lines] if lines else []


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """A command in lines. A short one stays as it is, with its inner blanks."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
