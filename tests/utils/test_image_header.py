"""Image sizes from the headers of files."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

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


def test_an_animated_webp_says_the_size_of_its_canvas():
    file = io.BytesIO()
    frames = [Image.new("RGB", (53, 37), color) for color in ("red", "blue")]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    assert header_size(file.getvalue()) == (37, 53)


def test_a_bitmap_stored_from_the_top_has_a_negative_height():
    data = bytearray(cv2.imencode(".bmp", np.zeros((37, 53, 3), np.uint8))[1].tobytes())
    data[22:26] = struct.pack("<i", -37)
    assert header_size(bytes(data)) == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]


def test_a_huge_size_is_reported_not_refused():
    """`Image.open` raises `DecompressionBombError` for such a file without saying its size."""
    data = bytearray(cv2.imencode(".bmp", np.zeros((37, 53, 3), np.uint8))[1].tobytes())
    data[18:26] = struct.pack("<ii", 60_000, 50_000)
    assert header_size(bytes(data)) == (50_000, 60_000)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + b"\0" * 40, b"text", b"\xff\xd8\xff\xd9", b"II*\0\xff\xff\xff\xff"])
def test_other_bytes_have_no_size(data):
    assert header_size(data) is None
