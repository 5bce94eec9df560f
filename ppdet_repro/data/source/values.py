"""Values of JSON and XML files, read as what they plainly mean. N entries."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, Optional

import numpy as np

MAX_ID = 1 << 63
MAX_NUMBER = 1e9  # px; no box or image is larger
EXACT = 1 << 53  # up to here, floats represent all integers
INTEGER = re.compile(r"-?[0-9]{1,18}(\.0+)?")
FLAGS = {"": False, "0": False, "0.0": False, "false": False, "no": False}
FLAGS.update({"1": True, "1.0": True, "true": True, "yes": True})


def as_id(value: object) -> Optional[int]:
    """Return 1 for 1, 1.0 and "1"; None for what is no integer of at most 64 bits.

    Example:
        >>> as_id(1), as_id(1.0), as_id("1"), as_id(1.5), as_id(True), as_id(None), as_id(2**64)
        (1, 1, 1, None, None, None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if -MAX_ID < value < MAX_ID else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < EXACT else None
    if isinstance(value, str) and INTEGER.fullmatch(value.strip()):
        return int(value.partition(".")[0])
    return None


def as_number(value: object) -> float:
    """Return 1.5 for 1.5 and "1.5"; NaN for what is no finite number.

    Example:
        >>> as_number(3), as_number("1.5"), as_number("wide"), as_number(None), as_number(10**400)
        (3.0, 1.5, nan, nan, nan)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def as_flag(value: object) -> Optional[bool]:
    """Return what a flag means: None or an empty text is no. Return None for what is no flag.

    Example:
        >>> as_flag(0), as_flag(None), as_flag("1"), as_flag("false"), as_flag(1.0), as_flag(2), as_flag("maybe")
        (False, False, True, False, True, None, None)
    """
    if value is None:
        return False
    if isinstance(value, (bool, int, float)):
        return bool(value) if value in (0, 1) else None
    return FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


class Ids(NamedTuple):
    """A column of ids."""

    values: np.ndarray  # [N] int64, 0 where there is none
    valid: np.ndarray  # [N] bool
    odd: np.ndarray  # indices of ids such as 1.0 and "1"


def id_column(entries: Sequence[dict], key: str) -> Ids:
    """Read an id of each entry."""
    values = [entry.get(key) for entry in entries]
    if set(map(type, values)) <= {int}:
        try:
            return Ids(np.array(values, np.int64), np.ones(len(values), bool), np.zeros(0, int))
        except OverflowError:
            pass
    read = [as_id(value) for value in values]
    odd = [row for row, value in enumerate(values) if read[row] is not None and type(value) is not int]
    valid = np.array([value is not None for value in read], bool)
    return Ids(np.array([value or 0 for value in read], np.int64), valid, np.array(odd, int))


def number_column(entries: Sequence[dict], key: str) -> np.ndarray:
    """Read a number of each entry in float64 [N]; NaN where there is no finite number."""
    values = [entry.get(key) for entry in entries]
    if set(map(type, values)) <= {int, float}:
        try:
            numbers = np.array(values, np.float64)
            return np.where(np.isfinite(numbers), numbers, np.nan)
        except OverflowError:
            pass
    return np.array([as_number(value) for value in values], np.float64)


def flag_column(entries: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a flag of each entry [N] bool. Returns also the indices of entries that have something else, which counts
    as no."""
    values = [entry.get(key, 0) for entry in entries]
    if set(map(type, values)) <= {int, bool} and set(values) <= {0, 1}:
        return np.array(values, bool), np.zeros(0, int)
    read = [as_flag(value) for value in values]
    return np.array([bool(flag) for flag in read], bool), np.array([i for i, f in enumerate(read) if f is None], int)


class Boxes(NamedTuple):
    """A column of boxes."""

    values: np.ndarray  # [N, 4] float64, NaN where there is none
    absent: np.ndarray  # indices of entries without a box
    wrong: np.ndarray  # indices of entries whose box is something else than four numbers


def box_column(entries: Sequence[dict], key: str) -> Boxes:
    """Read a list of four numbers of each entry, which may be NaN or infinite."""
    values: list[Any] = [entry.get(key) for entry in entries]
    none = np.zeros(0, int)
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        flat = list(chain.from_iterable(values))
        if set(map(type, flat)) <= {int, float}:
            try:
                return Boxes(np.array(flat, np.float64).reshape(-1, 4), none, none)
            except OverflowError:
                pass
    boxes, absent, wrong = np.full((len(values), 4), np.nan), [], []
    for row, value in enumerate(values):
        if value is None or value == []:
            absent.append(row)
        elif isinstance(value, list) and len(value) == 4 and all(map(is_number, value)):
            boxes[row] = value
        else:
            wrong.append(row)
    return Boxes(boxes, np.array(absent, int), np.array(wrong, int))


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number that float64 can represent; NaN and infinity are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return isinstance(float(value), float)
    except OverflowError:
        return False
