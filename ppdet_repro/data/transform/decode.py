"""Decodes image files to RGB arrays, and refuses files that are broken or have too many pixels."""

from __future__ import annotations

import re
import struct
from typing import Optional

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, ImageError, Sample, image_id
from ppdet_repro.utils import picture_limit
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.image_header import (
    EOI,
    FORMATS,
    FRAMES,
    MARKER,
    PROGRESSIVE,
    SOS,
    HeaderSize,
    header_size,
    header_sizes,
    is_picture,
    is_sideways,
    jpeg_segments,
)

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
SCAN = re.compile(rb"\xff\xda")
HEAD = 2**16  # bytes that nearly always contain the header
MAX_SCANNED = 2**32  # pixels times scans of a JPEG; a progressive one has about 10 scans
DECODER_LIMIT = picture_limit.decoder_limit()  # pixels


class TooManyPixels(ValueError):
    """A picture has more pixels than are decoded.

    Attributes:
        size: What its header says; None if that is within the limit, but the decoder finds more.
        limit: The largest number of pixels.
    """

    def __init__(self, size: Optional[HeaderSize], limit: int):
        what = f"is {size.width} x {size.height} pixels, more" if size else "has more pixels"
        needed = size.pixels if size else "a larger number"
        fix = f"to decode it, set the environment variable {picture_limit.VARIABLE} to {needed}"
        super().__init__(f"{what} than the {limit:,} that are decoded; {fix}")
        self.size, self.limit = size, limit


def read_image(path: str, im_id: Optional[int] = None) -> np.ndarray:
    """Read an image file to an array [H, W, 3] uint8 RGB, rotated by its EXIF orientation.

    ImageError if the file is missing, empty, not an image, truncated, or has too many pixels.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageError(path, im_id, f"cannot be read ({error.strerror})") from error
    try:
        return decode_image(data)
    except ValueError as error:
        raise ImageError(path, im_id, str(error)) from error


def decode_image(data: bytes, max_pixels: Optional[int] = None) -> np.ndarray:
    """Decode the bytes of an image file to an array [H, W, 3] uint8 RGB.

    Anything but a whole image is a ValueError, a `TooManyPixels` if it has more than `max_pixels`, or more than OpenCV
    decodes (see `utils/picture_limit.py`). OpenCV rejects truncated files of all formats except JPEG, whose missing
    rows it fills with gray. Therefore a JPEG must have its end marker. MemoryError says nothing about the image.
    """
    if not data:
        raise ValueError("is an empty file")
    if not is_picture(data):
        raise ValueError(f"is not an image ({FORMATS}), or is damaged")
    limit = DECODER_LIMIT if max_pixels is None else min(max_pixels, DECODER_LIMIT)
    sizes = header_sizes(data)
    for size in sizes:
        if size.pixels > limit:
            raise TooManyPixels(size, limit)
    if data.startswith(JPEG_START):
        check_jpeg(data, sizes[0].pixels if sizes else 0)
    elif data.startswith(PNG_START):
        check_png(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"not enough memory to decode an image of {len(data):,} bytes") from error
        found = re.search(r"CV(_IO_MAX_IMAGE_(PIXELS|WIDTH|HEIGHT))", error.err)  # in the condition that is not met
        if found and found[2] == "PIXELS":
            raise TooManyPixels(None, DECODER_LIMIT) from error
        if found:
            raise ValueError(f"has sides longer than OPENCV{found[1]}, an environment variable") from error
        raise ValueError(f"cannot be decoded ({error.err})") from error
    if image is None:
        raise ValueError("is not an image, or is damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def image_size(path: str) -> HeaderSize:
    """Read height and width of an image from its header, after rotation by its EXIF orientation.

    UserError if the file is not an image, has no readable header, or has too many pixels.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(HEAD)
            size = header_size(data)
            if size is None:
                data += file.read()
                size = header_size(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read as an image ({error.strerror}): replace or remove it") from error
    if size is None or not size.pixels:
        raise UserError(f"{path} cannot be read as an image ({FORMATS}): replace or remove it")
    if size.pixels > DECODER_LIMIT:
        raise UserError(f"{path} {TooManyPixels(size, DECODER_LIMIT)}")
    return HeaderSize(*size[::-1]) if is_sideways(data) else size


def check_jpeg(data: bytes, pixels: int) -> None:
    """ValueError if the bytes of a JPEG have no end marker behind the start of the scan, or too many scans.

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
    if data.rfind(JPEG_END) < start:
        raise ValueError("is cut off (a JPEG file without an end marker)")
    if not one and (1 + len(SCAN.findall(data, start))) * pixels > MAX_SCANNED:  # some may be in segments or at the end
        scans = count_scans(data, start)
        if scans * pixels > MAX_SCANNED:
            raise ValueError(f"is a JPEG file of {scans:,} scans, which would take long to decode")


def count_scans(data: bytes, start: int) -> int:
    """Return the number of scans of a JPEG, whose first scan has its data at `start`."""
    scans = 1
    while (found := MARKER.search(data, start)) and found[1][0] != EOI:
        scans += found[1][0] == SOS
        start = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return scans


def check_png(data: bytes) -> None:
    """ValueError if a chunk of a PNG has a length beyond the end of the file.

    OpenCV allocates the length that a chunk says, up to 4 GB, before it reads the chunk.
    """
    at = len(PNG_START)
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 8 + size > len(data):
            raise ValueError("is cut off (a PNG file with a chunk that is longer than the file)")
        if kind == b"IEND":
            break
        at += size + 12


@register
class Decode:
    """Reads the file `im_file`, or decodes the bytes or takes the RGB array that is given as `image`.

    Sets `image` [H, W, 3] uint8 RGB, `h`, `w`, `im_shape` and `scale_factor`. Sizes given by annotations are replaced.
    ImageError if the image is missing, empty, not an image, or truncated.
    """

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        given = sample.get("image")
        if given is None:
            image = read_image(sample["im_file"], image_id(sample))
        elif isinstance(given, bytes):
            try:
                image = decode_image(given)
            except ValueError as error:
                raise ImageError("in memory", image_id(sample), str(error)) from error
        else:
            image = given
        height, width = image.shape[:2]
        sample["image"], sample["h"], sample["w"] = image, height, width
        sample["im_shape"] = np.array([height, width], np.float32)
        sample["scale_factor"] = np.ones(2, np.float32)
        return sample
