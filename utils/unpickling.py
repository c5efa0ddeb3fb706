"""A pickle read as data: its words are followed, but nothing that it names is imported or called.

The standard library's unpickler imports what a file names and calls it, so that reading is running. Here a small stack
machine follows the opcodes (named and decoded by :mod:`pickletools`) and builds containers, numbers and text; an object
of any class becomes a :class:`Record`. A call of a function is made only where the reader has given a stand-in for it.
"""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LARGEST = 8 * 2**20  # bytes of a pickle; tensors are not part of it, and the largest networks' are a tenth of this
ALLOWANCE = 10_000_000  # parts and characters that stand-ins may be handed in all: each may copy what it is handed
LARGEST_KEY = 2**31  # of a number that is a key: larger ones can be made to collide, which takes forever
LONGEST_NAME = 200  # characters of a class's full name
# classes of the standard library that only hold something; any other name from there is refused unasked
HARMLESS = {
    "argparse.Namespace", "types.SimpleNamespace",
    *(f"builtins.{kind}" for kind in ("object", "bool", "int", "float", "str", "list", "tuple", "dict")),
}  # fmt: skip
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
STANDARD_LIBRARY = {*sys.stdlib_module_names, "nt", "posix"}  # the same names on every system

StandIn = Callable[..., Any]


class RefusedError(ValueError):
    """The pickle asks for something that is not done, or is no whole pickle. The message is one line without a file."""


@dataclass(frozen=True)
class Global:
    """A class or function by its name, not looked up."""

    name: str


@dataclass(eq=False)
class Record:
    """What a pickle says of an object, without the object.

    Attributes:
        kind: the class, with its module: ``models.common.Conv``.
        arguments: that it would be made with.
        state: its attributes by name, or whatever else it would be given to restore itself.
        items: what would be appended to it, or pairs that it would be filled with.
    """

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, if the state says so."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default


class _Mark:
    """Where a sequence on the stack begins."""


_MARK = _Mark()


class _Machine:
    """Follows one pickle's opcodes: those that only bring a value by the tables below, the others by a method each."""

    def __init__(self, stand_ins: Mapping[str, StandIn], persistent: Callable[[Any], Any] | None) -> None:
        self._stand_ins, self._persistent = stand_ins, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._left = ALLOWANCE

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self._take()
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _FRESH:
                self._stack.append(_FRESH[name]())
            elif name in _OPCODES:
                _OPCODES[name](self, argument)
            elif name not in _WITHOUT_EFFECT:
                raise RefusedError(f"it holds {name}, which a checkpoint does not need")
        raise RefusedError("it ends too early")

    def _take(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise RefusedError("its stack is out of order")
        return value

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise RefusedError("its stack is out of order")
        return self._stack[-1]

    def _take_to_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                taken = self._stack[place + 1 :]
                del self._stack[place:]
                return taken
        raise RefusedError("its stack is out of order")

    def mark(self, _: None) -> None:
        self._stack.append(_MARK)

    def pop(self, _: None) -> None:
        self._stack.pop()

    def pop_mark(self, _: None) -> None:
        self._take_to_mark()

    def duplicate(self, _: None) -> None:
        self._stack.append(self._top())

    def put(self, place: int) -> None:
        if not 0 <= place < 2 * LARGEST_KEY:
            raise RefusedError("it numbers its parts beyond all bounds")
        self._memo[place] = self._top()

    def memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def tuple_of(self, length: int) -> None:
        values = [self._take() for _ in range(length)]
        self._stack.append(tuple(reversed(values)))

    def tuple_from_mark(self, _: None) -> None:
        self._stack.append(tuple(self._take_to_mark()))

    def list_from_mark(self, _: None) -> None:
        self._stack.append(self._take_to_mark())

    def dict_from_mark(self, _: None) -> None:
        content: dict[Any, Any] = {}
        _fill(content, self._take_to_mark())
        self._stack.append(content)

    def append(self, _: None) -> None:
        value = self._take()
        _extend(self._top(), [value])

    def appends(self, _: None) -> None:
        values = self._take_to_mark()
        _extend(self._top(), values)

    def set_item(self, _: None) -> None:
        value, key = self._take(), self._take()
        _fill(self._top(), [key, value])

    def set_items(self, _: None) -> None:
        pairs = self._take_to_mark()
        _fill(self._top(), pairs)

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._global(module, name))

    def name_from_stack(self, _: None) -> None:
        name, module = self._take(), self._take()
        if not isinstance(name, str) or not isinstance(module, str):
            raise RefusedError("it names a class by something that is no text")
        self._stack.append(self._global(module, name))

    def _global(self, module: str, name: str) -> Global:
        module = PYTHON_2.get(module, module)
        full = f"{module}.{name}"
        if len(full) > LONGEST_NAME or not full.isprintable():
            raise RefusedError("it names a class by something that is no name")
        if module.partition(".")[0] in STANDARD_LIBRARY and full not in self._stand_ins and full not in HARMLESS:
            raise RefusedError(f"it asks for {full}, which a checkpoint does not need")
        return Global(full)

    def reduce(self, _: None) -> None:
        arguments, function = self._take(), self._take()
        self._stack.append(self._call(function, arguments))

    def instance(self, argument: str) -> None:
        self.name(argument)
        function = self._take()
        self._stack.append(self._call(function, tuple(self._take_to_mark())))

    def instance_from_mark(self, _: None) -> None:
        function, *arguments = self._take_to_mark()
        self._stack.append(self._call(function, tuple(arguments)))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise RefusedError("it calls something that is no function")
        if function.name not in self._stand_ins:
            raise RefusedError(f"it asks for a call of {function.name}, which is not made")
        self._spend(*arguments)
        return self._stand_ins[function.name](*arguments)

    def _spend(self, *values: Any) -> None:
        """Count what may be copied: else a short file could double something until the memory is full."""
        self._left -= 1 + sum(len(value) for value in values if isinstance(value, (str, bytes, tuple, list, dict)))
        if self._left < 0:
            raise RefusedError("it grows beyond all bounds when it is read")

    def new_object(self, _: None) -> None:
        arguments, kind = self._take(), self._take()
        self._stack.append(new_record(kind, arguments))

    def new_object_with_keywords(self, _: None) -> None:
        keywords, arguments, kind = self._take(), self._take(), self._take()
        made = new_record(kind, arguments)
        if keywords:
            made.items.append(keywords)
        self._stack.append(made)

    def build(self, _: None) -> None:
        state, target = self._take(), self._top()
        if isinstance(target, Record):
            self._spend(state, *(state if isinstance(state, tuple) else ()))
            _restore(target, state)  # else: attributes of a dict or a tensor, such as a state dict's versions

    def persistent_from_stack(self, _: None) -> None:
        if self._persistent is None:
            raise RefusedError("it refers to something outside of it")
        self._stack.append(self._persistent(self._take()))


_Opcode = Callable[[_Machine, Any], None]
_OPCODES: Mapping[str, _Opcode] = {
    "MARK": _Machine.mark, "POP": _Machine.pop, "POP_MARK": _Machine.pop_mark, "DUP": _Machine.duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put), "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "TUPLE1": lambda machine, _: machine.tuple_of(1), "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3), "TUPLE": _Machine.tuple_from_mark,
    "LIST": _Machine.list_from_mark, "FROZENSET": _Machine.list_from_mark, "DICT": _Machine.dict_from_mark,
    "APPEND": _Machine.append, "APPENDS": _Machine.appends, "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item, "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name, "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.reduce, "INST": _Machine.instance, "OBJ": _Machine.instance_from_mark,
    "NEWOBJ": _Machine.new_object, "NEWOBJ_EX": _Machine.new_object_with_keywords, "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_from_stack,
}  # fmt: skip
_FRESH: Mapping[str, Callable[[], Any]] = {  # sets are kept as lists: nothing here has to be hashable
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_DICT": dict,
}  # fmt: skip
_WITHOUT_EFFECT = {"PROTO", "FRAME"}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def unpickle(
    data: bytes, stand_ins: Mapping[str, StandIn] | None = None, persistent: Callable[[Any], Any] | None = None
) -> Any:
    """What a pickle holds, as data.

    Args:
        data: the pickle; what follows its end is ignored.
        stand_ins: for a function's full name (``collections.OrderedDict``, under Python 3's names) what is called
            instead of it. A call of any other is refused.
        persistent: gives the object for a persistent id; without it such are refused.

    Returns:
        dicts, lists (sets too), tuples, text, bytes, numbers, :class:`Record`, :class:`Global`, and what the two
        functions above return. Containers may contain themselves.

    Raises:
        RefusedError: it asks for more, or is too large, cut off or damaged.
    """
    if len(data) > LARGEST:
        raise RefusedError(f"expected a pickle of at most {LARGEST:,} bytes, got {len(data):,}")
    try:
        return _Machine(stand_ins or {}, persistent).run(data)
    except RefusedError:
        raise
    # a damaged pickle fails wherever its words stop making sense: in a stack, in a number, in a stand-in's arguments
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, RuntimeError) as error:
        raise RefusedError(f"it is damaged: {str(error) or type(error).__name__}") from error


def new_record(kind: Any, arguments: Any) -> Record:
    """A record of an object of a class, as the pickle names it and what it would be made with."""
    if not isinstance(kind, Global) or not isinstance(arguments, tuple):
        raise RefusedError("it makes an object of something that is no class")
    return Record(kind.name, arguments)


def _restore(target: Record, state: Any) -> None:
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # attributes, and those in slots
        attributes = state[0] or {}
        state = {**attributes, **state[1]} if isinstance(attributes, dict) else state
    if isinstance(target.state, dict) and isinstance(state, dict):
        target.state.update(state)
    else:
        target.state = state


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, Record):
        target.items.extend(values)
    elif isinstance(target, list):
        target.extend(values)
    else:
        raise RefusedError("it appends to something that is no list")


def _fill(target: Any, pairs: list[Any]) -> None:
    if len(pairs) % 2:
        raise RefusedError("it has a key without a value")
    if isinstance(target, Record):
        target.items.extend(zip(pairs[::2], pairs[1::2], strict=True))
        return
    if not isinstance(target, dict):
        raise RefusedError("it sets an item of something that is no dict")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # hashing nested tuples can take forever, or more of the stack than there is; large numbers can collide
        if not (key is None or isinstance(key, (str, bytes)) or (isinstance(key, int) and abs(key) < LARGEST_KEY)):
            raise RefusedError("it has a key that is neither text nor a small number")
        target[key] = value
