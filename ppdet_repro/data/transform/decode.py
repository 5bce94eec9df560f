"""Decodes image files to RGB arrays, and refuses files that are broken or have too many pixels."""

from __future__ import annotations

import re
import struct
from functools import cache
from typing import List, NamedTuple, Optional, Tuple

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform import jpeg_end
from ppdet_repro.data.transform.base import Context, ImageError, Sample, image_id
from ppdet_repro.utils import picture_limit
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.image_header import (
    FORMATS,
    HeaderSize,
    has_webp_exif,
    header_size,
    header_sizes,
    is_picture,
    is_sideways,
)
from ppdet_repro.utils.logger import get_logger

PNG_START = b"\x89PNG\r\n\x1a\n"
HEAD = 2**16  # bytes that nearly always contain the header
DECODER_LIMIT = picture_limit.decoder_limit()  # pixels
STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

SIDEWAYS_WEBP = (  # 2 x 1 pixels, to be turned by a quarter
    b"RIFFN\0\0\0WEBPVP8X\n\0\0\0\x08\0\0\0\x01\0\0\0\0\0VP8L\x0e\0\0\0/\x01\0\0\0\x07\x10\x11\xfd\x0fDD\xff\x03"
    b"EXIF\x1a\0\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
)

# Remarks on files that are used
NO_END = "no end marker, but all pixels (JPEG)"
ROWS_MISSING = "rows missing (JPEG)"
NEARLY_BLACK = "16 bits per sample of which at most 12 are used, which is nearly black in 8 bits"
_warned: List[str] = []


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


class Decoded(NamedTuple):
    """An image [H, W, 3] uint8 RGB, rotated by its EXIF orientation, and what is odd about its file."""

    image: np.ndarray
    remarks: Tuple[str, ...] = ()


def read_image(path: str, im_id: Optional[int] = None) -> np.ndarray:
    """Read an image file to an array [H, W, 3] uint8 RGB, rotated by its EXIF orientation.

    ImageError if the file is missing, empty, not an image, truncated, or has too many pixels.
    """
    decoded = read_decoded(path, im_id)
    if NEARLY_BLACK in decoded.remarks:
        _warn_once(path)
    return decoded.image


def read_decoded(path: str, im_id: Optional[int] = None) -> Decoded:
    """Read an image file, and tell what is odd about it; errors as in `read_image`."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageError(path, im_id, f"cannot be read ({error.strerror})") from error
    try:
        return decode(data)
    except ValueError as error:
        raise ImageError(path, im_id, str(error)) from error


def decode_image(data: bytes, max_pixels: Optional[int] = None) -> np.ndarray:
    """Decode the bytes of an image file to an array [H, W, 3] uint8 RGB; errors as in `decode`."""
    return decode(data, max_pixels).image


def decode(data: bytes, max_pixels: Optional[int] = None) -> Decoded:
    """Decode the bytes of an image file, and tell what is odd about it.

    Anything but a whole image is a ValueError, a `TooManyPixels` if it has more than `max_pixels`, or more than OpenCV
    decodes (see `utils/picture_limit.py`). OpenCV rejects truncated files of all formats except JPEG: see
    `jpeg_end.py`. MemoryError says nothing about the image.
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
    if data.startswith(jpeg_end.START):
        return _decode_jpeg(data, sizes[0].pixels if sizes else 0)
    if data.startswith(PNG_START):
        check_png(data)
    image = _opencv(data)
    return Decoded(_to_rgb(image), (NEARLY_BLACK,) if _is_nearly_black(data, image) else ())


def _decode_jpeg(data: bytes, pixels: int) -> Decoded:
    stream = jpeg_end.find_end(data, pixels)
    image = _opencv(data if stream.ends else stream.with_end())
    if stream.ends and not jpeg_end.has_gray_corner(image):
        return Decoded(_to_rgb(image))
    if jpeg_end.first_difference(image, _opencv(stream.with_end(jpeg_end.FILLER))) is None:
        return Decoded(_to_rgb(image), () if stream.ends else (NO_END,))
    del image  # at most two arrays of its size are in memory
    jpeg_end.check_missing(jpeg_end.missing_rows(stream, lambda changed: _opencv(changed, STORED)))
    return Decoded(_to_rgb(_opencv(stream.with_end())), (ROWS_MISSING,))


def _opencv(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """Decode to BGR, with 8 bits unless `flags` say otherwise. Errors as in `decode`."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
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
    return image


def _to_rgb(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _is_nearly_black(data: bytes, image: np.ndarray) -> bool:
    """Whether a file has 16 bits per sample and uses at most 12 of them, of which 4 are left in 8 bits."""
    has_8_bits = data.startswith((b"\xff\xd8", b"BM", b"RIFF")) or (data.startswith(PNG_START) and data[24] <= 8)
    if has_8_bits or image.max() >= 16:
        return False
    stored = _opencv(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    return stored.dtype == np.uint16 and 0 < stored.max() < 2**12


def _warn_once(path: str) -> None:
    if not _warned:
        _warned.append(path)
        get_logger().warning(
            f"{path} has {NEARLY_BLACK}: multiply the samples by the missing power of two; other such files are not "
            "named, 'ppdet-repro data check' lists them"
        )


def image_size(path: str) -> HeaderSize:
    """Read height and width of an image from its header, after rotation by its EXIF orientation.

    UserError if the file is not an image, has no readable header, or has too many pixels.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(HEAD)
            size = header_size(data)
            if size is None or has_webp_exif(data):
                data += file.read()
                size = header_size(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read as an image ({error.strerror}): replace or remove it") from error
    if size is None or not size.pixels:
        raise UserError(f"{path} cannot be read as an image ({FORMATS}): replace or remove it")
    if size.pixels > DECODER_LIMIT:
        raise UserError(f"{path} {TooManyPixels(size, DECODER_LIMIT)}")
    turned = is_sideways(data) and (not data.startswith(b"RIFF") or turns_webp())
    return HeaderSize(*size[::-1]) if turned else size


@cache
def turns_webp() -> bool:
    """Return whether this OpenCV turns WebP pictures by their EXIF orientation: older ones do not."""
    return _opencv(SIDEWAYS_WEBP).shape[0] == 2


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
