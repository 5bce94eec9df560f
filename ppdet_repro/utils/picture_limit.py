"""The limit on the pixels of a picture.

OpenCV reads it from the environment when its library is loaded. It checks it after its own reading of a picture's
header and before it allocates memory for the pixels, so that nothing in a header can get past it. Importing
`ppdet_repro` sets the variable unless the user has set it; worker processes inherit it. If OpenCV was loaded before,
its own check keeps the limit that it had, by default 2^30.
"""

from __future__ import annotations

import os
import warnings

VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
DEFAULT = 2**28  # 268 million pixels: 805 MB as an 8-bit RGB array


def apply() -> None:
    """Set the variable if it is not set, or is no number, with which OpenCV would end the process."""
    value = os.environ.get(VARIABLE)
    if value is not None and not is_valid(value):
        warnings.warn(f"{VARIABLE}={value[:40]!r} is not a number of pixels; {DEFAULT} is used", stacklevel=2)
    if value is None or not is_valid(value):
        os.environ[VARIABLE] = str(DEFAULT)


def is_valid(value: str) -> bool:
    """Return whether the text is a number that OpenCV can read."""
    return value.isascii() and value.isdigit() and len(value) <= 18


def decoder_limit() -> int:
    """The largest number of pixels that are decoded."""
    value = os.environ.get(VARIABLE, "")
    return int(value) if is_valid(value) else DEFAULT
