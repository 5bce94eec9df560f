"""Reads pickles without calling anything but given functions, in memory and time that the file's size bounds.

A pickle is a program for a machine with a stack of values. Python's own machine lets a program import any name, call
it, and claim any size. This one knows only the instructions that dicts, lists, tuples, texts, numbers and bytes consist
of, and those by which arrays are made. The instructions are described in Python's module `pickletools`. Those that no
pickler writes for such values are refused.
"""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

MAX_INSTRUCTIONS = 500_000  # an array takes about 25; each instruction makes at most one object
MAX_DIGITS = 600  # of an integer; Python takes seconds for a million
MAX_ARGUMENTS = 5  # of a function; a call that looks at a saved value again and again must not take long
LARGE = 1 << 14  # bytes
END = b"."


class Refused(Exception):
    """A pickle does something that no file of arrays does. The message says what."""


class Damaged(Exception):
    """The bytes are not a complete pickle. The message says why."""


class Block:
    """Many bytes, which one array can take over without copying them."""

    __slots__ = ("content",)

    def __init__(self, content: Optional[np.ndarray]):
        self.content = content

    def release(self) -> np.ndarray:
        """The bytes, [count] uint8. The block has none afterwards."""
        content, self.content = self.content, None
        if content is None:
            raise Refused("the file has two arrays of the same numbers")
        return content


class Function:
    """A function that a pickle may call, and may do nothing else with."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]):
        self.call = call


class Machine:
    """Runs the program of one pickle.

    Args:
        file: is read from its position on; its size must not change
        names: what the program may refer to, by module and name: functions
    """

    def __init__(self, file: BinaryIO, names: Mapping[Tuple[str, str], Function]):
        self.file, self.names = file, names
        start = file.tell()
        self.left = file.seek(0, os.SEEK_END) - start  # bytes not read yet
        file.seek(start)
        self.instructions = 0  # done
        self.stack: List[Any] = []
        self.marks: List[int] = []  # heights of the stack
        self.memo: Dict[int, Any] = {}

    def run(self) -> Any:
        """The value that the pickle describes. Raises `Refused` or `Damaged`."""
        try:
            while self.instructions < MAX_INSTRUCTIONS:
                self.instructions += 1
                code = self.take(1)
                if code == END:
                    return self.pop()
                if code not in INSTRUCTIONS:
                    raise Damaged(f"{code!r} is not an instruction of a pickle of arrays")
                INSTRUCTIONS[code](self)
        except IndexError:
            raise Damaged("it takes a value where there is none") from None
        except KeyError as error:
            raise Damaged(f"it refers to its value number {error}, which it has not saved") from None
        except (UnicodeError, struct.error, ValueError, TypeError, OverflowError) as error:
            raise Damaged(f"it has a value that cannot be: {str(error)[:100]}") from None
        raise Refused(f"the file has more than {MAX_INSTRUCTIONS:,} values")

    def take(self, count: int) -> bytes:
        """The next bytes of the file. Nothing is allocated if there are not so many."""
        if count > self.left:
            raise Damaged("it ends too early")
        self.left -= count
        return self.file.read(count)

    def push_bytes(self, count: int) -> None:
        """Push the next bytes of the file; from `LARGE` on as a `Block`."""
        if count < LARGE or count > self.left:
            self.push(self.take(count))
            return
        content = np.empty(count, np.uint8)
        if self.file.readinto(content.data) != count:  # type: ignore[attr-defined]
            raise Damaged("it ends too early")
        self.left -= count
        self.push(Block(content))

    def line(self) -> bytes:
        """The next line without its end."""
        line = self.file.readline()
        self.left -= len(line)
        if not line.endswith(b"\n"):
            raise Damaged("it ends too early")
        return line[:-1]

    def size(self, width: int) -> int:
        """An unsigned integer of so many bytes."""
        return int.from_bytes(self.take(width), "little")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise Damaged("it takes a value from before a mark")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise Damaged(f"it adds values to a {type(value).__name__}")
        return value

    def since_mark(self) -> List[Any]:
        """All values above the last mark, which are removed."""
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def tuple_of(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def fill(self, pairs: List[Any]) -> None:
        """Add keys and values, in turn, to the dict on the top."""
        target = self.top(dict)
        if len(pairs) % 2:
            raise Damaged("a key has no value")
        for key, value in zip(pairs[::2], pairs[1::2]):
            add(target, key, value)

    def refer(self, module: str, name: str) -> None:
        if (module, name) not in self.names:
            raise Refused(f"the file refers to {module[:100]}.{name[:100]}")
        self.push(self.names[module, name])

    def refer_to_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Damaged("it refers to a name that is not text")
        self.refer(module, name)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Function):
            raise Refused(f"the file calls a {type(function).__name__}")
        if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
            raise Damaged(f"it calls a function with something other than up to {MAX_ARGUMENTS} arguments")
        self.push(function.call(*arguments))

    def set_state(self, target: Any, state: Any) -> None:
        """Give an object that a function made the state that the file has for it."""
        raise NotImplementedError

    def build(self) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], Function):
            raise Refused("the file changes a function")
        self.set_state(self.stack[-1], state)


def add(target: Dict[str, Any], key: Any, value: Any) -> None:
    """Set a key, which must be text: other keys can take hours to hash, or all have the same hash."""
    if type(key) is not str:
        raise Refused(f"a name in the file is of the type {type(key).__name__}, not text")
    target[key] = value


def integer(text: bytes) -> int:
    if len(text) > MAX_DIGITS:
        raise Refused(f"the file has an integer of more than {MAX_DIGITS} digits")
    return int(text)


def truth_or_integer(text: bytes) -> Any:
    return text == b"01" if text in (b"00", b"01") else integer(text)


def put(machine: Machine, key: int) -> None:
    if not 0 <= key <= MAX_INSTRUCTIONS:
        raise Damaged(f"it saves a value as number {key}")
    machine.memo[key] = machine.stack[-1]


def fill_one(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.fill([key, value])


def append_one(machine: Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def extend(machine: Machine) -> None:
    values = machine.since_mark()
    machine.top(list).extend(values)


def new_dict(machine: Machine) -> None:
    pairs = machine.since_mark()
    machine.push({})
    machine.fill(pairs)


INSTRUCTIONS: Dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # the protocol
    b"\x95": lambda m: m.take(8),  # the length of what follows
    # constants and numbers
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    b"K": lambda m: m.push(m.size(1)),
    b"M": lambda m: m.push(m.size(2)),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.size(1)), "little", signed=True)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"I": lambda m: m.push(truth_or_integer(m.line())),
    b"L": lambda m: m.push(integer(m.line().rstrip(b"L"))),
    b"F": lambda m: m.push(float(m.line())),
    # texts; those of Python 2 have one byte per character
    b"X": lambda m: m.push(str(m.take(m.size(4)), "utf-8", "surrogatepass")),
    b"\x8c": lambda m: m.push(str(m.take(m.size(1)), "utf-8", "surrogatepass")),
    b"\x8d": lambda m: m.push(str(m.take(m.size(8)), "utf-8", "surrogatepass")),
    b"V": lambda m: m.push(str(m.line(), "raw-unicode-escape")),
    b"U": lambda m: m.push(str(m.take(m.size(1)), "latin1")),
    b"T": lambda m: m.push(str(m.take(m.size(4)), "latin1")),
    # bytes
    b"C": lambda m: m.push_bytes(m.size(1)),
    b"B": lambda m: m.push_bytes(m.size(4)),
    b"\x8e": lambda m: m.push_bytes(m.size(8)),
    b"\x96": lambda m: m.push_bytes(m.size(8)),
    # tuples, lists and dicts
    b"(": lambda m: m.marks.append(len(m.stack)),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.since_mark()),
    b"a": append_one,
    b"e": extend,
    b"}": lambda m: m.push({}),
    b"d": new_dict,
    b"s": fill_one,
    b"u": lambda m: m.fill(m.since_mark()),
    # values that occur again
    b"q": lambda m: put(m, m.size(1)),
    b"r": lambda m: put(m, m.size(4)),
    b"p": lambda m: put(m, integer(m.line())),
    b"\x94": lambda m: put(m, len(m.memo)),
    b"h": lambda m: m.push(m.memo[m.size(1)]),
    b"j": lambda m: m.push(m.memo[m.size(4)]),
    b"g": lambda m: m.push(m.memo[integer(m.line())]),
    # calls of the given functions
    b"c": lambda m: m.refer(m.line().decode(), m.line().decode()),
    b"\x93": Machine.refer_to_stack,
    b"R": Machine.call,
    b"b": Machine.build,
}
