"""Sizes of pictures, read from the first bytes of a file as the decoders of OpenCV read them."""

from __future__ import annotations

import re
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

FORMATS = "JPEG, PNG, BMP, WebP, TIFF or PNM"
SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|BM|RIFF....WEBP|II\*\0|MM\0\*|II\+\0|MM\0\+|P[1-6]\s", re.DOTALL
)

EOI, SOS, APP1 = 0xD9, 0xDA, 0xE1  # markers of JPEG
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
PROGRESSIVE = {0xC2, 0xCA}
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")  # of a segment: neither stuffed bytes nor a marker without segment
MAX_SEGMENTS = 10_000
WIDTH, HEIGHT, ORIENTATION, TILE_WIDTH, TILE_HEIGHT = 256, 257, 274, 322, 323  # tags of TIFF and EXIF
INTEGERS = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 16: 8, 17: 8}  # types of TIFF -> bytes
MAX_TAGS = 4096


class HeaderSize(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


def is_picture(data: bytes) -> bool:
    """Return whether a file starts as one of the `FORMATS` does."""
    return SIGNATURES.match(data) is not None


def header_size(data: bytes) -> Optional[HeaderSize]:
    """The size in the header of a file in one of the `FORMATS`; None if it is another format or damaged.

    The size is that of the stored pixels; see `is_sideways`.
    """
    found = header_sizes(data)
    return found[0] if found else None


def header_sizes(data: bytes) -> List[HeaderSize]:
    """The size of a picture, then that of its tiles if it is a tiled TIFF. Empty if there is no size."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG"):
            width, height = struct.unpack_from(">II", data, 16)
            return [HeaderSize(height, width)] if data[12:16] == b"IHDR" else []
        if data.startswith(b"BM"):
            return [_bmp(data)]
        if data.startswith(b"RIFF"):
            return _webp(data)
        if data[:2] in (b"II", b"MM"):
            return _tiff(data)
        if re.match(rb"P[1-6]\s", data):
            return _pnm(data)
    except (struct.error, OverflowError):  # the file ends early
        pass
    return []


def is_sideways(data: bytes) -> bool:
    """Return whether the orientation that a JPEG, PNG, TIFF or WebP file gives turns the picture by a quarter."""
    try:
        return any(5 <= value <= 8 for value in _tags(_exif(data), {ORIENTATION})[ORIENTATION])
    except (struct.error, OverflowError):  # there is none
        return False


def _exif(data: bytes) -> bytes:
    """The part of a file that has the form of a TIFF file; empty if there is none."""
    if data[:2] in (b"II", b"MM"):
        return data
    if data.startswith(b"\xff\xd8"):
        return next(
            (data[a + 6 : b] for m, a, b in jpeg_segments(data) if m == APP1 and data[a : a + 4] == b"Exif"), b""
        )
    if data.startswith(b"RIFF"):
        return _webp_exif(data)
    at = data.find(b"eXIf", 0, data.find(b"IDAT")) if data.startswith(b"\x89PNG") else -1
    return data[at + 4 :] if at > 0 else b""


def jpeg_segments(data: bytes) -> Iterator[Tuple[int, int, int]]:
    """The marker, start and end of each segment of a JPEG file, to the start of the first scan, included.

    As in libjpeg, bytes between segments are skipped, markers may be filled up, and some have no length.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, at)
        if found is None or found[1][0] == EOI:
            return
        at = found.end()
        end = at + max(2, int.from_bytes(data[at : at + 2], "big"))
        if end > len(data):
            return
        yield found[1][0], at + 2, end
        if found[1][0] == SOS:
            return
        at = end


def _jpeg(data: bytes) -> List[HeaderSize]:
    for marker, start, _ in jpeg_segments(data):
        if marker in FRAMES:
            return [HeaderSize(*struct.unpack_from(">HH", data, start + 1))]
    return []


def _bmp(data: bytes) -> HeaderSize:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return HeaderSize(abs(height), abs(width))


def _webp(data: bytes) -> List[HeaderSize]:
    if data[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif data[12:16] == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return []
    return [HeaderSize(height, width)] if len(data) >= 30 else []


def has_webp_exif(data: bytes) -> bool:
    """Return whether a file is a WebP that says it has EXIF data, which usually comes last."""
    return data.startswith(b"RIFF") and data[12:16] == b"VP8X" and len(data) > 20 and bool(data[20] & 8)


def _webp_exif(data: bytes) -> bytes:
    at = 12
    while has_webp_exif(data) and at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            found = data[at + 8 : at + 8 + size]
            return found[6:] if found.startswith(b"Exif\0\0") else found
        at += 8 + size + size % 2
    return b""


def _pnm(data: bytes) -> List[HeaderSize]:
    found = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?!\d)", data)
    return [HeaderSize(int(found[2]), int(found[1]))] if found else []


def _tiff(data: bytes) -> List[HeaderSize]:
    """The largest size that the first page's tags give: readers differ in which of two equal tags they take."""
    tags = _tags(data, {WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT})
    sizes = [(tags[high], tags[wide]) for high, wide in ((HEIGHT, WIDTH), (TILE_HEIGHT, TILE_WIDTH))]
    return [HeaderSize(max(high), max(wide)) for high, wide in sizes if high and wide]


def _tags(data: bytes, wanted: Set[int]) -> Dict[int, List[int]]:
    """All values of the wanted tags, which are integers, in the first directory of a TIFF structure."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at, step, inline = at + (8 if big else 2), 20 if big else 12, 8 if big else 4
    values: Dict[int, List[int]] = {tag: [] for tag in wanted}
    for entry in range(at, min(at + step * min(count, MAX_TAGS), len(data) - step + 1), step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        size = INTEGERS.get(kind)
        if tag in wanted and size is not None:
            start = entry + step - inline
            if size > inline:
                (start,) = struct.unpack_from(order + "I", data, start)
            values[tag].append(int.from_bytes(data[start : start + size], "little" if order == "<" else "big"))
    return values
