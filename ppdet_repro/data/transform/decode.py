"""Decodes image files to RGB arrays and detects files that are broken."""

from __future__ import annotations

from typing import Optional

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, ImageError, Sample, image_id

JPEG_START, JPEG_END, START_OF_SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA


def read_image(path: str, im_id: Optional[int] = None) -> np.ndarray:
    """Read an image file to an array [H, W, 3] uint8 RGB, rotated by its EXIF orientation.

    ImageError if the file is missing, empty, not an image, or truncated.
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


def decode_image(data: bytes) -> np.ndarray:
    """Decode the bytes of an image file to an array [H, W, 3] uint8 RGB.

    Anything but a whole image is a ValueError. OpenCV rejects truncated files of all formats except JPEG, whose missing
    rows it fills with gray. Therefore a JPEG must have its end marker.
    """
    if not data:
        raise ValueError("is an empty file")
    if is_truncated_jpeg(data):
        raise ValueError("is cut off (a JPEG file without an end marker)")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"cannot be decoded ({error.err})") from error
    if image is None:
        raise ValueError("is not an image, or is damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def is_truncated_jpeg(data: bytes) -> bool:
    """Return whether the bytes are a JPEG without an end marker after the start of the scan.

    Segments are skipped by their length, because the thumbnail in an EXIF segment has an end marker of its own.
    """
    if not data.startswith(JPEG_START):
        return False
    at = len(JPEG_START)
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == START_OF_SCAN:
            return data.rfind(JPEG_END) < at
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


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
