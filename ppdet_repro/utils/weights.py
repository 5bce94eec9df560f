"""Reads weight files without running code in them, and writes them.

A `.pdparams` file is a pickle, and unpickling a file from elsewhere can run any code. `read_state` reads it with
`array_pickle`, which accepts arrays alone. A `.safetensors` file can contain no code.
"""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Tuple, Union

import numpy as np

from ppdet_repro.utils.array_pickle import MAX_AXES, Damaged, Refused, StoredArray, load_arrays
from ppdet_repro.utils.downloads import ENDING, resolve
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file, user_path
from ppdet_repro.utils.logger import get_logger

SAFETENSORS = ".safetensors"
SAFETENSORS_TYPES = {  # its names of the types that Paddle has
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
NAME_TABLE = "StructuredToParameterName@@"  # Paddle's entry with the names of variables, which nothing here needs
SPLIT_TABLE = "UnpackBigParamInfor@@"  # Paddle's entry about arrays over 1 GB, which it saves in pieces
MAX_HEADER = 1 << 23  # bytes in front of the arrays in a safetensors file; an array has about 100


def read_state(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """Read the arrays of a weight file by name, without running code in the file.

    A name ending in `.safetensors` is a file of that format, any other is one that Paddle or `pickle` wrote. Numbers in
    bfloat16 become float32. Raises a `UserError` if the file is missing, empty or damaged, contains anything but named
    arrays, or would need far more memory than it has bytes.
    """
    return read_entries(path, ())[0]


def read_entries(path: Union[str, Path], others: Iterable[str]) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    """Read a weight file as `read_state` does. The entries whose names are in `others` may be anything that a file can
    hold, dicts, texts and numbers too. They are returned apart, as they are in the file; a missing one is left out."""
    path = user_path(path)
    content, size = _read(path)
    try:
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}, not named arrays")
        found = {name: content.pop(name) for name in others if name in content}
        return _named_arrays(content, size), found
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a weight file: {error}") from None


def named_arrays(entry: Any) -> Dict[str, np.ndarray]:
    """The arrays of a dict that `read_entries` returned as one entry. Raises ValueError or TypeError if it is not one
    of named arrays."""
    if not isinstance(entry, dict):
        raise TypeError(f"it has a {type(entry).__name__} where a dict of arrays must be")
    return _without_bfloat16({key: _array(key, value) for key, value in entry.items()})


def _read(path: Path) -> Tuple[Any, int]:
    """What a weight file contains, and its size in bytes."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: not a file, but a folder or a device; give a file of weights")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise UserError(f"{path}: the file is empty; copy or download it again")
            return _load_safetensors(file.read()) if path.suffix == SAFETENSORS else load_arrays(file), size
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights: {error.strerror}") from error
    except Refused as error:
        raise UserError(
            f"{path}: refused: {error}, which no weight file needs and which could run code or fill the memory; get "
            "the weights from a source that you trust"
        ) from None
    except Damaged as error:
        raise UserError(f"{path}: damaged, or not a weight file: {error}; get it again") from None
    except MemoryError:
        raise UserError(f"{path}: there is not enough memory for its {size:,} bytes") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a weight file: {error}") from None


def _load_safetensors(data: bytes) -> Dict[str, StoredArray]:
    """The arrays in a file of the format safetensors. Raises `Damaged`, and TypeError for other numbers than ours."""
    import safetensors

    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise Damaged(f"its header has more than {MAX_HEADER:,} bytes")
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise Damaged(str(error)[:200]) from None
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in SAFETENSORS_TYPES:
            raise Damaged(f"{_short(name)} has numbers of the type {entry['dtype']}, which Paddle does not have")
        values = np.frombuffer(entry["data"], SAFETENSORS_TYPES[entry["dtype"]])
        arrays[name] = StoredArray(values.reshape(entry["shape"]).astype(values.dtype.newbyteorder("=")))
    return arrays


def _named_arrays(content: Dict[Any, Any], size: int) -> Dict[str, np.ndarray]:
    """The arrays of a file of `size` bytes. Raises ValueError or TypeError if it has anything else."""
    content.pop(NAME_TABLE, None)
    split = content.pop(SPLIT_TABLE, {})
    arrays = {key: _array(key, value) for key, value in content.items()}
    if sum(array.nbytes for array in arrays.values()) > 2 * size:  # an array may have two names
        raise ValueError("its names have more numbers than the file; the same array has many names")
    for key, pieces, shape in _split_arrays(split):
        missing = [piece for piece in pieces if piece not in arrays]
        if missing:
            raise ValueError(f"{_short(key)} has the piece {_short(missing[0])}, which is missing")
        parts = [arrays.pop(piece).ravel() for piece in dict.fromkeys(pieces)]
        if len({part.dtype for part in parts}) > 1:
            raise TypeError(f"{_short(key)} has pieces of several types")
        whole = np.concatenate(parts)
        if math.prod(shape) != whole.size:
            raise ValueError(f"{_short(key)} has {whole.size} numbers in its pieces, which is not its shape")
        arrays[key] = whole.reshape(shape)
    return _without_bfloat16(arrays)


def _without_bfloat16(arrays: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """The arrays, those in bfloat16 as float32. One that has several names is converted once."""
    floats = {id(array): _float32(array) for array in arrays.values() if array.dtype == np.uint16}
    return {key: floats.get(id(array), array) for key, array in arrays.items()}


def _split_arrays(table: Any) -> Iterator[Tuple[str, List[str], List[int]]]:
    """The name of each array that Paddle cut to pieces, the names of these, and the shape of the whole."""
    if not isinstance(table, dict):
        raise TypeError(f"{SPLIT_TABLE} is a {type(table).__name__}")
    for key, entry in table.items():
        entry = entry if isinstance(entry, dict) else {}
        pieces, shape = entry.get("slices", ()), entry.get("OriginShape", 0)
        known = _is_list_of(str, pieces) and _is_list_of(int, shape) and pieces and len(shape) <= MAX_AXES
        if not known or min(shape, default=0) < 0:
            raise TypeError(f"{SPLIT_TABLE} has no names of pieces and no shape for {_short(key)}")
        yield key, list(pieces), list(shape)


def _is_list_of(kind: type, value: Any) -> bool:
    return type(value) in (list, tuple) and all(type(item) is kind for item in value)


def _array(key: Any, value: Any) -> np.ndarray:
    """The value of an entry as a numeric array. Paddle saves some values as (name, array), and bfloat16 as uint16."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(value, StoredArray) or value.value is None:
        raise TypeError(f"{_short(key)} is a {type(value).__name__}, not an array of numbers")
    return value.value


def _short(name: str) -> str:
    """A name for a message, which a damaged file can make as long as it is."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def _float32(bfloat16: np.ndarray) -> np.ndarray:
    """The same numbers as float32, whose upper 16 bits are those of bfloat16."""
    return np.asarray(np.left_shift(bfloat16, 16, dtype=np.uint32).view(np.float32))


def save_state(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write a file for `read_state` completely, or raise an `OSError`, such as for a full disk.

    Equal arrays give equal bytes. With the ending `.safetensors` it has that format, otherwise one for `paddle.load`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        if path.suffix == SAFETENSORS:
            import safetensors.numpy

            file.write(safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in state.items()}))
        else:
            pickle.dump({key: _with_common_type(array) for key, array in state.items()}, file, protocol=4)


def _with_common_type(array: np.ndarray) -> np.ndarray:
    """The same array with NumPy's own object for its type; a pickle tells equal types of different objects apart."""
    return array.view(np.dtype(array.dtype.str))


def convert_weights(source: Union[str, Path], output: Path) -> None:
    """Write the arrays of a weight file to another, whose name ends in `.pdparams` or `.safetensors`.

    `source` is a path or a URL, see `resolve`. Raises a `UserError` if it cannot be read or `output` not be written.
    """
    if output.suffix not in (ENDING, SAFETENSORS):
        raise UserError(f"{output}: the name of the file to write must end with {ENDING} or {SAFETENSORS}")
    state = read_state(resolve(source))
    try:
        save_state(output, state)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    get_logger().info(f"{output}: {len(state)} arrays")
