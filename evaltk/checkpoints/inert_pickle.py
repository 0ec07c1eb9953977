"""A pickle read as data: no name in it is ever imported and nothing in it is ever called.

A global becomes a `Name`. Calling a name or filling an object is looked up in a closed table of Python functions; what
is not in the table becomes a `Thing`, a record of what the pickle asked for. So the file never reaches a callable.
Opcodes of protocols 2 to 5, without the extension registry and out-of-band buffers.
"""

from __future__ import annotations

import argparse
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from evaltk import safe_pickle
from evaltk.checkpoints.inert_values import (
    LONGEST_NAME,
    PLAIN,
    Call,
    HostileError,
    Name,
    Thing,
    flat_key,
    named,
    reaches_outside,
)

PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}


class Reader:
    """One pickle after the other from a stream.

    Args:
        stream: of bytes; `size`: their number at most, which no length in the file may exceed.
        calls: {dotted name: function of the arguments}, beside `PLAIN`.
        persistent: what a persistent id stands for.
    """

    def __init__(
        self, stream: BinaryIO, size: int, *, calls: Mapping[str, Call], persistent: Callable[[Any], object]
    ) -> None:
        self.stream, self.size, self.persistent = stream, size, persistent
        self.calls = {**PLAIN, **calls}
        self.memo: dict[int, Any] = {}
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []

    def load(self) -> Any:
        """The next pickle of the stream.

        Raises: pickle.UnpicklingError, or any of `torchfile.DAMAGE`, for what is damaged; HostileError.
        """
        self.memo, self.stack, self.marks = {}, [], []
        read, simple, sized, rest = self.stream.read, SIMPLE, SIZED, OTHERS
        while code := read(1):
            if code in simple:
                self.stack.append(simple[code]())
            elif code in sized:
                form, decode = sized[code]
                value = self.number(form)
                self.stack.append(value if decode is None else decode(self.take(value)))
            elif code == b".":
                return self.stack.pop()
            elif code in rest:
                rest[code](self)
            else:
                raise pickle.UnpicklingError(f"Unsupported operand {code[0]}")
        raise EOFError("the pickle has no end")

    def take(self, count: int) -> bytes:
        """So many bytes of the stream."""
        if not 0 <= count <= self.size:
            raise EOFError("the pickle is cut off")
        data = self.stream.read(count)
        if len(data) < count:
            raise EOFError("the pickle is cut off")
        return data

    def number(self, form: str) -> int:
        """A number of the stream, in `struct`'s format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The rest of a line."""
        text = self.stream.readline(LONGEST_NAME)
        if not text.endswith(b"\n"):
            raise EOFError("a name has no end")
        return text[:-1].decode()

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def call(self, function: object, args: object) -> object:
        """What calling `function`, which is no function here, gives."""
        if not isinstance(args, tuple):
            raise pickle.UnpicklingError("arguments that are no tuple")
        if not isinstance(function, Name | Thing):
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")
        name = named(function)
        if isinstance(function, Name) and (known := self.calls.get(name)):
            return known(*args)
        if reaches_outside(name):
            raise HostileError(name)
        return Thing(name, args)

    def build(self, made: object, state: Any) -> None:
        """Fill `made` with its state."""
        if isinstance(made, Thing):
            made.state = state
        elif isinstance(made, argparse.Namespace):
            if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
                raise pickle.UnpicklingError("a Namespace of something else than names")
            vars(made).update(state)
        elif isinstance(made, OrderedDict):
            if isinstance(state, dict) and "_metadata" in state:  # of a module's state dict; any other is left out
                vars(made)["_metadata"] = state["_metadata"]
        elif isinstance(made, safe_pickle.DType):
            made.__setstate__(state)
        elif not isinstance(made, dict | list):
            raise pickle.UnpicklingError(f"state of a {type(made).__name__}")

    def put(self, pairs: list[Any]) -> None:
        """Put keys and values, in turn, into the dict on top of the stack."""
        target = self.stack[-1]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(target, dict):
                target[flat_key(key)] = value
            elif isinstance(target, Thing):
                target.items.append((flat_key(key), value))
            else:
                raise pickle.UnpicklingError(f"items of a {type(target).__name__}")

    def extend(self, items: list[Any]) -> None:
        """Append to the list, or add to the set, on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Thing):
            target.elements.extend(items)
        elif isinstance(target, set):
            target.update(flat_key(item) for item in items)
        else:
            raise pickle.UnpicklingError(f"elements of a {type(target).__name__}")


def _global(r: Reader) -> None:
    module, name = r.line(), r.line()
    r.stack.append(Name(f"{PYTHON_2.get(module, module)}.{name}"))


def _stack_global(r: Reader) -> None:
    name, module = r.stack.pop(), r.stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise pickle.UnpicklingError("a name that is no text")
    r.stack.append(Name(f"{PYTHON_2.get(module, module)}.{name}"[:LONGEST_NAME]))


def _reduce(r: Reader) -> None:
    args = r.stack.pop()
    r.stack[-1] = r.call(r.stack[-1], args)


def _new_with_keywords(r: Reader) -> None:
    keywords = r.stack.pop()
    _reduce(r)
    if isinstance(r.stack[-1], Thing) and isinstance(keywords, dict):
        r.stack[-1].items.extend(keywords.items())


def _build(r: Reader) -> None:
    state = r.stack.pop()
    r.build(r.stack[-1], state)


def _mark(r: Reader) -> None:
    r.marks.append(r.stack)
    r.stack = []


def _pop(r: Reader) -> None:
    r.stack = r.stack[:-1] if r.stack else r.marks.pop()


def _two(r: Reader) -> list[Any]:
    value, key = r.stack.pop(), r.stack.pop()
    return [key, value]


def _tuple(r: Reader, count: int | None = None) -> None:
    items = r.marked() if count is None else r.stack[-count:]
    if count is not None:
        if len(items) < count:
            raise pickle.UnpicklingError("a tuple of too few")
        del r.stack[-count:]
    r.stack.append(tuple(items))


def _frozen(r: Reader) -> None:
    items = r.marked()
    r.stack.append(frozenset(flat_key(item) for item in items))


def _text(data: bytes) -> str:
    return str(data, "utf-8", "surrogatepass")


def _old_text(data: bytes) -> str:
    return str(data, "latin1")  # as Python 2 wrote both text and bytes


SIMPLE: Mapping[bytes, Callable[[], Any]] = {
    b"N": lambda: None, b"\x88": lambda: True, b"\x89": lambda: False,
    b")": tuple, b"]": list, b"}": dict, b"\x8f": set,
}  # fmt: skip
SIZED: Mapping[bytes, tuple[str, Callable[[bytes], Any] | None]] = {
    b"J": ("<i", None), b"K": ("<B", None), b"M": ("<H", None), b"G": (">d", None),
    b"X": ("<I", _text), b"\x8c": ("<B", _text), b"\x8d": ("<Q", _text),
    b"T": ("<i", _old_text), b"U": ("<B", _old_text),
    b"B": ("<I", bytes), b"C": ("<B", bytes), b"\x8e": ("<Q", bytes), b"\x96": ("<Q", bytes),
    b"\x8a": ("<B", pickle.decode_long), b"\x8b": ("<i", pickle.decode_long),
}  # fmt: skip
OTHERS: Mapping[bytes, Callable[[Reader], object]] = {
    b"\x80": lambda r: r.take(1),  # the protocol
    b"\x95": lambda r: r.take(8),  # the length of a frame
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _reduce,  # NEWOBJ: a class and its arguments
    b"\x92": _new_with_keywords,
    b"b": _build,
    b"(": _mark,
    b"0": _pop,
    b"1": lambda r: r.marked(),
    b"2": lambda r: r.stack.append(r.stack[-1]),
    b"t": _tuple,
    b"\x85": lambda r: _tuple(r, 1),
    b"\x86": lambda r: _tuple(r, 2),
    b"\x87": lambda r: _tuple(r, 3),
    b"s": lambda r: r.put(_two(r)),
    b"u": lambda r: r.put(r.marked()),
    b"a": lambda r: r.extend([r.stack.pop()]),
    b"e": lambda r: r.extend(r.marked()),
    b"\x90": lambda r: r.extend(r.marked()),
    b"\x91": _frozen,
    b"q": lambda r: r.memo.__setitem__(r.number("<B"), r.stack[-1]),
    b"r": lambda r: r.memo.__setitem__(r.number("<I"), r.stack[-1]),
    b"\x94": lambda r: r.memo.__setitem__(len(r.memo), r.stack[-1]),
    b"h": lambda r: r.stack.append(r.memo[r.number("<B")]),
    b"j": lambda r: r.stack.append(r.memo[r.number("<I")]),
    b"Q": lambda r: r.stack.append(r.persistent(r.stack.pop())),
}
