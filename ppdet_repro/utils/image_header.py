"""The size of an image, read from its header by Pillow before a decoder allocates memory for the pixels."""

from __future__ import annotations

import io
from typing import NamedTuple, Optional

from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

# The classes that `Image.open` uses, by the first bytes of a file. `Image.open` itself refuses to tell a huge size.
READERS = {
    b"\xff\xd8": JpegImageFile,
    b"\x89PNG": PngImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
}


class HeaderSize(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


def header_size(data: bytes) -> Optional[HeaderSize]:
    """The size in the header of a JPEG, PNG, BMP, WebP or TIFF file; None if it is none of these or damaged."""
    for start, reader in READERS.items():
        if data.startswith(start):
            try:
                width, height = reader(io.BytesIO(data)).size
                return HeaderSize(height, width)
            except Exception:  # a damaged file makes Pillow raise nearly anything
                return None
    return None
