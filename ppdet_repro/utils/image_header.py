"""The size of an image, read from the first bytes of its file: known before a decoder allocates anything."""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers whose segment holds the size


class HeaderSize(NamedTuple):
    """Height and width in pixels, as the file's header says."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


def header_size(data: bytes) -> Optional[HeaderSize]:
    """The size that a JPEG, PNG, BMP, WebP or TIFF file announces; None if it is none of these or is cut off."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        elif data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        elif data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
        else:
            return None
    except struct.error:
        return None
    return HeaderSize(abs(height), abs(width))  # a BMP of negative height is stored from the top


def _jpeg(data: bytes) -> Optional[HeaderSize]:
    """The size in the frame header; segments before it are skipped by their length."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in FRAMES:
            return HeaderSize(*struct.unpack_from(">HH", data, at + 5))
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _webp(data: bytes) -> Optional[HeaderSize]:
    """The size in the first chunk: lossy, lossless or extended."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return HeaderSize(height & 0x3FFF, width & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return HeaderSize((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if kind == b"VP8X" and len(data) >= 30:
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return HeaderSize(height, width)
    return None


def _tiff(data: bytes) -> Optional[HeaderSize]:
    """The tags 256 (width) and 257 (height) of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, at)
    sides = {}
    for i in range(entries):
        tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * i)
        if tag in (256, 257) and kind in (3, 4):  # a short or a long
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 10 + 12 * i)
    return HeaderSize(sides[257], sides[256]) if len(sides) == 2 else None
