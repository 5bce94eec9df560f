"""Reads pickles of arrays without running code in them.

Unpickling a file can run any code. NumPy's own unpickling is unsafe, too: a file can call a type of objects one of
numbers, and NumPy then follows any address that the file contains. So nothing that a file names is called. Small
functions stand for the few names that arrays are made of. They check what they get, and copy numbers out of bytes.

The names of NumPy 1 (`numpy.core`) and NumPy 2 (`numpy._core`) are both known, whichever is installed.
"""

from __future__ import annotations

import pickle
import re
from typing import Any, BinaryIO, Callable, Dict, Optional, Sequence, Tuple, Union

import numpy as np

NUMBERS = re.compile("[<>=|]?[biuf][0-9]{1,2}")  # booleans, integers and floating point numbers, such as "f4"


class Refused(Exception):
    """A pickle contains something that no file of arrays contains. The message says what."""


def load_arrays(file: BinaryIO) -> Any:
    """Unpickle dicts, lists and tuples of texts, numbers and arrays. An array is a `StoredArray`.

    Raises `Refused` for anything else, and nearly any other exception if the bytes are not a complete pickle.

    Example:
        >>> import io
        >>> content = load_arrays(io.BytesIO(pickle.dumps({"a": np.arange(3)})))
        >>> content["a"].value
        array([0, 1, 2])
    """
    return _Unpickler(file, encoding="latin1").load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise Refused(f"the file refers to {module}.{name}")
        return STAND_INS[module, name]


class _Function:
    """A function that a pickle may call, and may do nothing else with."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Refused("the file changes a function")


class _NumberType:
    """Stands for `numpy.dtype`: a type of numbers and a byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, align: bool = False, copy: bool = False):
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise Refused(f"the file has values of the type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        """Take the byte order. The rest of a `numpy.dtype`'s state is about types that are not numbers."""
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class StoredArray:
    """Stands for `numpy.ndarray`: an array, once its numbers were read; `value` is None before."""

    __slots__ = ("value",)

    def __init__(self, value: Optional[np.ndarray] = None):
        self.value = value

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        *_, shape, kind, is_fortran, data = state
        self.value = _numbers(data, kind, shape, "F" if is_fortran else "C")


def _numbers(data: Union[bytes, bytearray, str], kind: _NumberType, shape: Sequence[int], order: str) -> np.ndarray:
    """The array of some bytes, copied, in this machine's byte order. Python 2 pickled bytes as a text."""
    if not isinstance(kind, _NumberType):
        raise Refused(f"the file has an array whose type is a {type(kind).__name__}")
    values = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind.dtype)
    return values.reshape(shape, order=order).astype(kind.dtype.newbyteorder("="))  # type: ignore[call-overload]


def _new_array(*_: Any) -> StoredArray:
    """Stands for `_reconstruct`, which makes an empty array of a class; its state follows."""
    return StoredArray()


def _scalar(kind: _NumberType, data: Union[bytes, str]) -> StoredArray:
    """Stands for `scalar`: one number."""
    return StoredArray(_numbers(data, kind, (), "C"))


def _array_of_buffer(
    data: bytes, kind: _NumberType, shape: Sequence[int], order: str, axes: Optional[Sequence[int]] = None
) -> StoredArray:
    """Stands for `_frombuffer`, in protocol 5. `axes` is the order of the axes if `order` is "K"."""
    array = _numbers(data, kind, shape, "C" if order == "K" else order)
    return StoredArray(array if axes is None else array.transpose(axes))


def _bytes_of_text(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`: bytes, in protocols 0 to 2."""
    if encoding != "latin1":
        raise Refused(f"the file has bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for `bytes` without arguments: those of an empty array, in protocols 0 to 2."""
    return b""


def _array_class(*_: Any) -> None:
    """Stands for `numpy.ndarray`, which pickles name as an argument of `_reconstruct` and do not call."""
    raise Refused("the file calls numpy.ndarray")


STAND_INS: Dict[Tuple[str, str], _Function] = {  # for what a pickle may refer to
    ("numpy", "ndarray"): _Function(_array_class),
    ("numpy", "dtype"): _Function(_NumberType),
    ("_codecs", "encode"): _Function(_bytes_of_text),
    ("collections", "OrderedDict"): _Function(dict),
}
for _module in ("builtins", "__builtin__"):
    STAND_INS[_module, "tuple"] = _Function(tuple)
    STAND_INS[_module, "bytes"] = _Function(_no_bytes)
for _module in ("numpy.core", "numpy._core"):
    STAND_INS[f"{_module}.multiarray", "_reconstruct"] = _Function(_new_array)
    STAND_INS[f"{_module}.multiarray", "scalar"] = _Function(_scalar)
    STAND_INS[f"{_module}.numeric", "_frombuffer"] = _Function(_array_of_buffer)
