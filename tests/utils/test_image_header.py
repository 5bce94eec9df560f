"""Image sizes from the first bytes of files."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from ppdet_repro.utils.image_header import header_size


@pytest.mark.parametrize(
    "suffix, flags",
    [
        (".jpg", []),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".png", []),
        (".bmp", []),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 50]),  # lossy
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),  # lossless
        (".tif", []),
    ],
)
def test_the_size_is_the_decoders(suffix, flags):
    image = np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8)
    data = cv2.imencode(suffix, image, flags)[1].tobytes()
    size = header_size(data)
    assert size == (37, 53) and size.pixels == 37 * 53
    assert header_size(data[:11]) is None


def test_segments_before_a_jpegs_size_are_skipped():
    data = cv2.imencode(".jpg", np.zeros((37, 53, 3), np.uint8))[1].tobytes()
    thumbnail = b"\xff\xc0\x00\x0b\x08\x00\x01\x00\x01\x01"  # looks like the size 1 x 1
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    assert header_size(data[:2] + segment + b"\xff" + data[2:]) == (37, 53)  # and a fill byte


def test_an_extended_webp_says_its_canvas():
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (52).to_bytes(3, "little") + (36).to_bytes(3, "little")
    assert header_size(b"RIFF\0\0\0\0WEBP" + chunk) == (37, 53)


def test_a_bitmap_stored_from_the_top_has_a_negative_height():
    assert header_size(b"BM" + b"\0" * 16 + struct.pack("<ii", 53, -37)) == (37, 53)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + b"\0" * 40, b"text", b"\xff\xd8\xff\xd9", b"II*\0\xff\xff\xff\xff"])
def test_other_bytes_have_no_size(data):
    assert header_size(data) is None
