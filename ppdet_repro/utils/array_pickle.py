"""Reads pickles of arrays without running code in them.

Unpickling a file can run any code. NumPy's own unpickling is unsafe, too: a file can call a type of objects one of
numbers, and NumPy then follows any address that the file contains. So nothing that a file names is called. Small
functions stand for the few names that arrays are made of. They check what they get, and copy numbers out of bytes.
`pickle_machine` reads the file's instructions, and bounds what they can do.

The names of NumPy 1 (`numpy.core`) and NumPy 2 (`numpy._core`) are both known, whichever is installed.
"""

from __future__ import annotations

import math
import re
from typing import Any, BinaryIO, Callable, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from ppdet_repro.utils.pickle_machine import Block, Damaged, Function, Machine, Refused, add

__all__ = ["Damaged", "Refused", "StoredArray", "load_arrays"]

NUMBERS = re.compile("[<>=|]?(b1|i1|i2|i4|i8|u1|u2|f2|f4|f8)")  # what Paddle's tensors can hold; u2 is bfloat16
MAX_AXES = 32  # as in NumPy 1

Data = Union[bytes, str, Block]


def load_arrays(file: BinaryIO) -> Any:
    """Unpickle dicts, lists and tuples of texts, numbers and arrays. An array is a `StoredArray`.

    Raises `Refused` for anything else, and `Damaged` if the bytes are not a complete pickle. Objects, time and memory
    are bounded: an instruction makes at most one object, there are at most `pickle_machine.MAX_INSTRUCTIONS`, and all
    arrays together have at most as many bytes as the file.

    Example:
        >>> import io, pickle
        >>> content = load_arrays(io.BytesIO(pickle.dumps({"a": np.arange(3)})))
        >>> content["a"].value
        array([0, 1, 2])
    """
    return ArrayMachine(file).run()


class _NumberType:
    """Stands for `numpy.dtype`: a type of numbers and a byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, align: bool = False, copy: bool = False):
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise Refused(f"the file has values of the type {_short(name)}")
        self.dtype = np.dtype(name)


class StoredArray:
    """Stands for `numpy.ndarray`: an array, once its numbers were read; `value` is None before."""

    __slots__ = ("value",)

    def __init__(self, value: Optional[np.ndarray] = None):
        self.value = value


class ArrayMachine(Machine):
    """The machine with the functions that make arrays."""

    def __init__(self, file: BinaryIO):
        names: Dict[Tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): _array_class,
            ("numpy", "dtype"): _NumberType,
            ("_codecs", "encode"): _bytes_of_text,
            ("collections", "OrderedDict"): self._ordered_dict,
        }
        for module in ("builtins", "__builtin__"):
            names[module, "tuple"] = _same_tuple
            names[module, "bytes"] = _no_bytes
        for module in ("numpy.core", "numpy._core"):
            names[f"{module}.multiarray", "_reconstruct"] = _new_array
            names[f"{module}.multiarray", "scalar"] = self._scalar
            names[f"{module}.numeric", "_frombuffer"] = self._array_of_buffer
        super().__init__(file, {name: Function(call) for name, call in names.items()})
        self.free = self.left  # bytes that further arrays may have

    def set_state(self, target: Any, state: Any) -> None:
        """Take the byte order of a type, whose other state is about types that are not numbers; fill an array."""
        if type(state) is not tuple:
            raise Refused(f"the file gives a {type(target).__name__} a state that is a {type(state).__name__}")
        if isinstance(target, _NumberType):
            if state[1] in ("<", ">"):
                target.dtype = target.dtype.newbyteorder(state[1])
        elif isinstance(target, StoredArray):
            if len(state) not in (4, 5):
                raise Damaged("an array has a state of another length")
            shape, kind, is_fortran, data = state[-4:]
            target.value = self._numbers(data, kind, shape, "F" if is_fortran else "C")
        else:
            raise Refused(f"the file gives a {type(target).__name__} a state")

    def _numbers(self, data: Data, kind: _NumberType, shape: Sequence[int], order: str) -> np.ndarray:
        """The array of some bytes, in this machine's byte order. It is a copy, or takes over the bytes of a block."""
        if not isinstance(kind, _NumberType):
            raise Refused(f"the file has an array whose type is a {type(kind).__name__}")
        content = _content(data)
        if not _is_sequence(shape) or len(shape) > MAX_AXES or not all(type(n) is int for n in shape):
            raise Damaged(f"an array has the shape {_short(shape)}")
        wanted = math.prod(shape) * kind.dtype.itemsize
        if min(shape, default=0) < 0 or wanted != len(content):
            raise Damaged(f"an array of the shape {_short(shape)} has {len(content)} bytes")
        self.free -= wanted
        if self.free < 0:
            raise Refused("the file has arrays with more numbers than the file")
        values = np.frombuffer(content, kind.dtype)
        values = values.reshape(shape, order=order)  # type: ignore[call-overload]
        return values.astype(kind.dtype.newbyteorder("="), copy=isinstance(content, bytes))

    def _scalar(self, kind: _NumberType, data: Data) -> StoredArray:
        """Stands for `scalar`: one number."""
        return StoredArray(self._numbers(data, kind, (), "C"))

    def _array_of_buffer(
        self, data: Data, kind: _NumberType, shape: Sequence[int], order: str, axes: Optional[Sequence[int]] = None
    ) -> StoredArray:
        """Stands for `_frombuffer`, in protocol 5. `axes` is the order of the axes if `order` is "K"."""
        array = self._numbers(data, kind, shape, "C" if order == "K" else order)
        return StoredArray(array if axes is None else array.transpose(axes))

    def _ordered_dict(self, pairs: Sequence[Sequence[Any]] = ()) -> Dict[str, Any]:
        """Stands for `OrderedDict`. Python 2 gives it its pairs, Python 3 fills it later."""
        if not _is_sequence(pairs) or not all(_is_sequence(pair) and len(pair) == 2 for pair in pairs):
            raise Damaged("a dict is made of values that are not pairs")
        self.instructions += len(pairs)  # these can be the same pairs again and again
        found: Dict[str, Any] = {}
        for key, value in pairs:
            add(found, key, value)
        return found


def _content(data: Data) -> Union[bytes, np.ndarray]:
    """The bytes that a pickle has for an array. Python 2 pickled them as a text."""
    if isinstance(data, Block):
        return data.release()
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes):
        raise Refused(f"the file has an array whose numbers are a {type(data).__name__}")
    return data


def _new_array(*_: Any) -> StoredArray:
    """Stands for `_reconstruct`, which makes an empty array of a class; its state follows."""
    return StoredArray()


def _bytes_of_text(text: str, encoding: str) -> str:
    """Stands for `_codecs.encode`: bytes, in protocols 0 to 2. They stay a text until they are an array's."""
    if encoding != "latin1":
        raise Refused(f"the file has bytes in the encoding {_short(encoding)}")
    return text


def _no_bytes() -> bytes:
    """Stands for `bytes` without arguments: those of an empty array, in protocols 0 to 2."""
    return b""


def _same_tuple(items: Tuple[Any, ...]) -> Tuple[Any, ...]:
    """Stands for `tuple`, which Paddle makes of the pair of a tensor's name and array."""
    if type(items) is not tuple:
        raise Refused(f"the file makes a tuple of a {type(items).__name__}")
    return items


def _array_class(*_: Any) -> None:
    """Stands for `numpy.ndarray`, which pickles name as an argument of `_reconstruct` and do not call."""
    raise Refused("the file calls numpy.ndarray")


def _is_sequence(value: Any) -> bool:
    return type(value) in (tuple, list)


def _short(value: Any) -> str:
    """A text or a sequence for a message; nothing else has a spelling of bounded length."""
    if isinstance(value, str):
        return repr(value[:40])
    if _is_sequence(value) and all(type(item) is int for item in value[:8]):
        return f"({', '.join(str(item)[:20] for item in value[:8])}{', ...' if len(value) > 8 else ''})"
    return type(value).__name__
