"""Where the overlapping slices of a large image are."""

from __future__ import annotations

from typing import List


def starts(length: int, size: int, overlap: float) -> List[int]:
    """The first pixel of each slice of `size` pixels along a side of an image.

    Neighbors share the fraction `overlap` of their pixels, or more at the end: the last slice ends with the side.

    Example:
        >>> starts(length=100, size=40, overlap=0.25), starts(length=30, size=40, overlap=0.25)
        ([0, 30, 60], [0])
    """
    step = max(1, size - int(overlap * size))
    count = 1 + max(0, -(-(length - size) // step))
    return [max(0, min(i * step, length - size)) for i in range(count)]
