"""Finds out how much of a JPEG is missing: decoders fill what a file lacks with gray, and say nothing.

`MISSING_ROWS` is an environment variable, so that training, evaluation, calibration, deployment and all their processes
treat a picture alike.
"""

from __future__ import annotations

import math
import os
import re
from typing import Callable, NamedTuple, Optional, Tuple

import numpy as np

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.image_header import EOI, FRAMES, MARKER, PROGRESSIVE, SOS, jpeg_segments

START, END = b"\xff\xd8", b"\xff\xd9"
SCAN = re.compile(rb"\xff\xda")
MAX_SCANNED = 2**32  # pixels times scans; a progressive JPEG has about 10 scans
MISSING_ROWS = "PPDET_REPRO_MISSING_ROWS"  # the largest share of rows that a picture may lack, from 0 (default) to 1
GRAY = 128  # in all channels: what decoders fill missing rows with
FILLER = b"\x5a" * 64  # changes a picture if its data ends early
ROWS = 64  # compared at a time


class Stream(NamedTuple):
    """Where the parts of a JPEG file are.

    Attributes:
        data: All bytes of the file.
        start: Where the data of the first scan is.
        ends: Whether there is an end marker behind it.
        progressive: Whether a scan refines pixels that others have drawn.
    """

    data: bytes
    start: int
    ends: bool
    progressive: bool

    def with_end(self, filler: bytes = b"") -> bytes:
        """The bytes up to the end marker, then `filler`, then an end marker: some versions of OpenCV ask for one."""
        end = scans_and_end(self.data, self.start)[1]
        return self.data[:end].removesuffix(b"\xff") + filler + END


def find_end(data: bytes, pixels: int) -> Stream:
    """Find out whether a JPEG of so many pixels ends. ValueError if it has no data, or too many scans.

    Segments are skipped by their length, because the thumbnail in an EXIF segment has an end marker of its own. A scan
    of few bytes can cover all pixels, and a decoder goes through them for each scan.
    """
    components, progressive, start = b"", False, len(data)
    one = False  # whether the first scan has all components, after which libjpeg reads no other
    for marker, at, end in jpeg_segments(data):
        if marker in FRAMES:
            components, progressive = data[at + 5 : at + 6], marker in PROGRESSIVE
        elif marker == SOS:
            start, one = end, data[at : at + 1] >= components and not progressive
    if start >= len(data):
        raise ValueError("is cut off (a JPEG file without pixels)")
    if not one and (1 + len(SCAN.findall(data, start))) * pixels > MAX_SCANNED:  # some may be in segments or at the end
        scans = scans_and_end(data, start)[0]
        if scans * pixels > MAX_SCANNED:
            raise ValueError(f"is a JPEG file of {scans:,} scans, which would take long to decode")
    return Stream(data, start, data.rfind(END) >= start, progressive)


def scans_and_end(data: bytes, start: int) -> Tuple[int, int]:
    """The number of scans of a JPEG, whose first scan has its data at `start`, and where its end marker is, or the end
    of the file."""
    scans = 1
    while (found := MARKER.search(data, start)) and found[1][0] != EOI:
        scans += found[1][0] == SOS
        start = _after(data, found)
    return scans, found.start() if found else len(data)


def _after(data: bytes, marker: re.Match) -> int:
    """The end of a marker's segment."""
    return marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))


def missing_rows(stream: Stream, decode: Callable[[bytes], np.ndarray]) -> float:
    """The share of the rows of stored pixels that a JPEG has no data for; 1 if a progressive one lacks any.

    The picture is decoded with other bytes behind its data: they change it from the row on at which the data ends.
    """
    image = decode(stream.with_end())  # [H, W, 3]
    first = first_difference(image, decode(stream.with_end(FILLER)))
    if first is None:
        return 0.0
    return 1.0 if stream.progressive else 1 - first / len(image)


def first_difference(one: np.ndarray, other: np.ndarray) -> Optional[int]:
    """The first row in which two images [H, W, 3] differ; None if they are equal."""
    for top in range(0, len(one), ROWS):
        rows = (one[top : top + ROWS] != other[top : top + ROWS]).any(axis=(1, 2))
        if rows.any():
            return top + int(rows.argmax())
    return None


def has_gray_corner(image: np.ndarray) -> bool:
    """Return whether an image [H, W, 3] has a corner that is as gray as missing rows are."""
    corners = image[:: max(1, len(image) - 1), :: max(1, image.shape[1] - 1)]
    return bool((corners == GRAY).all(axis=2).any())


def check_missing(share: float) -> None:
    """ValueError if a picture lacks a larger share of its rows than the user allows."""
    if share > allowed_share():
        raise ValueError(
            f"is cut off: {math.ceil(100 * share)} % of its rows are missing or lack detail; to use such pictures, set "
            f"the environment variable {MISSING_ROWS} to {math.ceil(100 * share) / 100:g}"
        )


def allowed_share() -> float:
    """The largest share of rows that a picture may lack. UserError if the user's is no such number."""
    given: Optional[str] = os.environ.get(MISSING_ROWS)
    if not given:
        return 0.0
    try:
        share = float(given)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UserError(f"the environment variable {MISSING_ROWS} is {given[:40]!r}: give a number from 0 to 1")
    return share
