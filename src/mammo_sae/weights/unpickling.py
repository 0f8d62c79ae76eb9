"""A reader of pickles that imports and calls nothing that a pickle names.

Python's own unpickler runs instructions that import functions and call them. This reader runs the
same instructions over plain values. It looks up each name in a table of known constructors, which
are this project's own functions. A name that is not in the table becomes a `Foreign`, which keeps
the name and ignores arguments, items and state. So a file that needs omegaconf, or a library that
is not installed, can be read, and a hostile file does nothing.

The instructions are those of `pickletools`, protocols 0 to 5.
"""

from __future__ import annotations

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mammo_sae.errors import first_line

# An instruction of one byte makes a container of up to 216 bytes. So this number limits the memory
# of a pickle to 0.5 GB. A checkpoint of a thousand tensors has 50,000 instructions.
MOST_INSTRUCTIONS = 2_500_000
PLAIN = (str, bytes, int, float, bool, complex, type(None))


class Damaged(Exception):
    """The bytes are not a pickle, or claim more than the file holds."""


@dataclass(frozen=True, eq=False, slots=True)
class Foreign:
    """A placeholder for an object of an unknown class, or for the result of an unknown function."""

    name: str

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True, slots=True)
class Global:
    """A name to which a pickle refers. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Unfinished(ABC):
    """A value whose state comes later. `build` returns the finished value."""

    @abstractmethod
    def build(self, state: Any) -> Any:
        """Return the finished value, or raise `Damaged`."""


class Stream(Protocol):
    """The source of a pickle: an open file, or one that is mapped into memory."""

    def read(self, count: int, /) -> bytes:
        """Return up to `count` bytes."""

    def readline(self) -> bytes:
        """Return the bytes up to the end of the line."""

    def tell(self) -> int:
        """Return the position."""


Constructor = Callable[..., Any]
_MARK = object()


def unpickle(
    stream: Stream,
    constructors: Mapping[Global, Constructor],
    persistent: Callable[[Any], Any],
) -> tuple[Any, int]:
    """Return the value that a pickle describes.

    Parameters
    ----------
    stream
        The source. Its position is the beginning of a pickle.
    constructors
        For each known name, a function of the pickled arguments. A constructor raises `Damaged`,
        TypeError or ValueError if the arguments are wrong.
    persistent
        Returns the object for a persistent id.

    Returns
    -------
    The value, and the position in the stream at which the pickle ends. The value is made of plain
    containers, results of `constructors` and `persistent`, `Global` and `Foreign`.

    Raises
    ------
    Damaged
        If the stream has no valid pickle there.
    """
    machine = _Machine(constructors, persistent)
    try:
        # typeshed asks for a whole file; genops uses the methods of Stream alone.
        steps = pickletools.genops(stream)  # type: ignore[arg-type]
        for count, (instruction, argument, _) in enumerate(steps):
            if count > MOST_INSTRUCTIONS:
                raise Damaged(f"it has more than {MOST_INSTRUCTIONS:,} instructions")
            if instruction.name == "STOP":
                return machine.pop(), stream.tell()
            machine.run(instruction.name, argument)
    except Damaged:
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as error:
        reason = first_line(error)
        raise Damaged(f"its pickle is broken: {reason[:80]}") from None
    raise Damaged("its pickle has no end")


class _Machine:
    def __init__(
        self, constructors: Mapping[Global, Constructor], persistent: Callable[[Any], Any]
    ) -> None:
        self._constructors = constructors
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._places: dict[int, int] = {}  # places of unfinished values in the memo, by their id

    def run(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _PUTS:
            self._put(argument)
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name in _IGNORED:
            pass
        elif name in _METHODS:
            _METHODS[name](self, argument)
        else:
            raise Damaged(f"its pickle has the instruction {name}, which needs data from outside")

    def pop(self) -> Any:
        """Remove the top of the stack and return it."""
        value = self._top()
        self._stack.pop()
        return value

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Damaged("its pickle is broken: it takes a value that is not there")
        return self._stack[-1]

    def _above_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while at >= 0 and self._stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise Damaged("its pickle is broken: it takes a mark that is not there")
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def _put(self, place: int) -> None:
        value = self._memo[place] = self._top()
        if isinstance(value, Unfinished):
            self._places[id(value)] = place

    def _memoize(self, _argument: Any) -> None:
        self._put(len(self._memo))

    def _tuple(self, count: int | None) -> None:
        values = self._above_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self._stack.append(tuple(values))

    def _pop_any(self, _argument: Any) -> None:
        if not self._stack:
            raise Damaged("its pickle is broken: it takes a value that is not there")
        self._stack.pop()

    def _pop_mark(self, _argument: Any) -> None:
        self._above_mark()

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(map(plain_key, values))
        elif not isinstance(target, Foreign):
            raise Damaged("its pickle is broken: it adds items to a value without items")

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, dict):
            if len(values) % 2:
                raise Damaged("its pickle is broken: a key has no value")
            target.update(zip(map(plain_key, values[::2]), values[1::2], strict=True))
        elif not isinstance(target, Foreign):
            raise Damaged("its pickle is broken: it sets items of a value without items")

    def _append_one(self, _argument: Any) -> None:
        self._extend([self.pop()])

    def _set_one(self, _argument: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set_items([key, value])

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(Global(module, name))

    def _stack_global(self, _argument: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Damaged("its pickle is broken: a name is no text")
        self._stack.append(Global(module, name))

    def _call(self, function: Any, arguments: Any, named: Mapping[str, Any] | None = None) -> None:
        """Push the result of a known constructor onto the stack, or a `Foreign` for other names."""
        if not isinstance(arguments, tuple):
            raise Damaged("its pickle is broken: arguments are no tuple")
        known = self._constructors.get(function) if isinstance(function, Global) else None
        if known is None or named:
            self._stack.append(Foreign(_called(function, arguments)))
            return
        try:
            self._stack.append(known(*arguments))
        except (TypeError, ValueError, OverflowError) as error:
            reason = first_line(error)
            raise Damaged(f"arguments of {function} are wrong: {reason[:80]}") from None

    def _reduce(self, _argument: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self._call(function, arguments)

    def _new_object(self, _argument: Any) -> None:
        named, arguments, function = self.pop(), self.pop(), self.pop()
        self._call(function, arguments, named if isinstance(named, dict) else {"": named})

    def _old_object(self, _argument: Any) -> None:
        values = self._above_mark()
        if not values:
            raise Damaged("its pickle is broken: an object has no class")
        self._call(values[0], tuple(values[1:]))

    def _instance(self, argument: str) -> None:
        values = self._above_mark()
        self._global(argument)
        self._call(self.pop(), tuple(values))

    def _build(self, _argument: Any) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, Unfinished):
            place = self._places.get(id(target))
            target = target.build(state)
            if place is not None:
                self._memo[place] = target
        self._stack.append(target)

    def _extension(self, argument: int) -> None:
        self._stack.append(Global("extension", str(argument)))

    def _persistent_id(self, argument: Any) -> None:
        self._stack.append(self._persistent(argument))

    def _mark(self, _argument: Any) -> None:
        self._stack.append(_MARK)


def plain_key(value: Any) -> Any:
    """Return `value`, or a `Foreign` if its hash could take more than constant time.

    The hash of nested tuples can take exponential time.
    """
    if isinstance(value, (*PLAIN, Foreign, Global)):
        return value
    if isinstance(value, tuple) and all(isinstance(part, PLAIN) for part in value):
        return value
    return Foreign(type(value).__name__)


def _called(function: Any, arguments: tuple[Any, ...]) -> str:
    """Return a name for the result of calling `function`, for messages."""
    if isinstance(function, Global):
        rebuilds = function.module in ("copyreg", "copy_reg")
        if rebuilds and arguments and isinstance(arguments[0], Global):
            return str(arguments[0])[:120]
        return str(function)[:120]
    if isinstance(function, Foreign):
        return function.name
    return f"a call of {type(function).__name__}"


_VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG"),
        *("LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT"),
    }
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_IGNORED = frozenset({"PROTO", "FRAME"})


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise Damaged("its pickle is broken: a key has no value")
    return dict(zip(map(plain_key, values[::2]), values[1::2], strict=True))


_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._pop_any,
    "POP_MARK": _Machine._pop_mark,
    "DUP": lambda machine, _: machine._stack.append(machine._top()),
    "MEMOIZE": _Machine._memoize,
    "TUPLE": lambda machine, _: machine._tuple(None),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "LIST": lambda machine, _: machine._stack.append(machine._above_mark()),
    "DICT": lambda machine, _: machine._stack.append(_pairs(machine._above_mark())),
    "FROZENSET": lambda machine, _: machine._stack.append(
        frozenset(map(plain_key, machine._above_mark()))
    ),
    "APPEND": _Machine._append_one,
    "APPENDS": lambda machine, _: machine._extend(machine._above_mark()),
    "ADDITEMS": lambda machine, _: machine._extend(machine._above_mark()),
    "SETITEM": _Machine._set_one,
    "SETITEMS": lambda machine, _: machine._set_items(machine._above_mark()),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_object,
    "OBJ": _Machine._old_object,
    "INST": _Machine._instance,
    "BUILD": _Machine._build,
    "EXT1": _Machine._extension,
    "EXT2": _Machine._extension,
    "EXT4": _Machine._extension,
    "PERSID": _Machine._persistent_id,
    "BINPERSID": lambda machine, _: machine._persistent_id(machine.pop()),
}
