"""Pictures that claim, hide or multiply their size. Each is refused in a line, before memory is allocated for it."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from png_bomb import png_bomb
from transform_samples import context, encoded, noise_image

from ppdet_repro.data.source.check import check
from ppdet_repro.data.source.dataset_files import find_dataset
from ppdet_repro.data.transform import decode
from ppdet_repro.data.transform.base import ImageError
from ppdet_repro.data.transform.decode import Decode, TooManyPixels, decode_image, image_size
from ppdet_repro.data.transform.jpeg_end import find_end
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.image_header import header_size, header_sizes

HUGE = 60_000  # a side; no picture of HUGE x HUGE pixels may be decoded


@pytest.fixture(autouse=True)
def never_decoded(monkeypatch, request):
    """What is refused by its header does not reach the decoder."""
    if "decoder" not in request.node.name:
        monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))


def tiff(*tags: tuple[int, int]) -> bytes:
    """A TIFF file of one directory with these tags and values."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def jpeg_with_size(height: int, width: int, before: bytes = b"") -> bytes:
    """A JPEG whose frame claims a size, with some bytes in front of the frame's segment."""
    data = encoded(".jpg", noise_image(16, 16))
    at = data.index(b"\xff\xc0")
    return data[:at] + before + data[at : at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


SMALL_FRAME = b"\xff\xe1\x00\x0d\xff\xc0\x00\x0b\x08\x00\x01\x00\x01\x01\xff"  # a segment with a frame of 1 x 1 inside
BOMBS = {
    "png": png_bomb(HUGE, HUGE),
    "tiff, the true size last": tiff((256, HUGE), (257, HUGE), (256, 16), (257, 16)),
    "tiff, the true size first": tiff((256, 16), (257, 16), (256, HUGE), (257, HUGE)),
    "tiff of small size in one huge tile": tiff((256, 16), (257, 16), (322, HUGE), (323, HUGE)),
    "jpeg": jpeg_with_size(HUGE, HUGE),
    "jpeg, a marker without length": jpeg_with_size(HUGE, HUGE, b"\xff\x01\xff\xd3"),
    "jpeg, bytes between segments": jpeg_with_size(HUGE, HUGE, b"\0\1garbage\xff\0"),
    "jpeg, fill bytes": jpeg_with_size(HUGE, HUGE, b"\xff\xff\xff"),
    "jpeg, a frame in another segment": jpeg_with_size(HUGE, HUGE, SMALL_FRAME),
    "bmp": b"BM" + bytes(12) + struct.pack("<IiiHH", 40, HUGE, -HUGE, 1, 24) + bytes(40),
    "webp": b"RIFF\x80\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + struct.pack("<I", HUGE)[:3] * 2 + bytes(40),
    "pnm": b"P6\n# a comment\n60000 # another\n60000\n255\n" + bytes(100),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_too_many_pixels_are_refused_by_the_header(data, tmp_path):
    assert len(data) < 2000
    (tmp_path / "bomb").write_bytes(data)
    with pytest.raises(
        ImageError, match=r"bomb \(im_id 7\): is 6000[01] x 6000[01] pixels, .* OPENCV_IO_MAX_IMAGE_PIXELS"
    ):
        Decode()({"im_file": str(tmp_path / "bomb"), "im_id": np.array([7])}, context())
    with pytest.raises(TooManyPixels):
        decode_image(data)


@pytest.mark.parametrize("kind", ["png", "bmp", "pnm", "jpeg"])
def test_the_decoder_refuses_what_a_header_could_hide(kind, monkeypatch):
    monkeypatch.setattr(decode, "header_sizes", lambda _: [])
    with pytest.raises(ValueError) as error:
        decode_image(BOMBS[kind])
    if isinstance(error.value, TooManyPixels):
        assert error.value.size is None and "has more pixels than the 268,435,456 that" in str(error.value)
    else:
        assert kind == "jpeg"  # libjpeg has a limit of its own


def test_too_little_memory_is_no_fault_of_the_image(monkeypatch):
    """An image that cannot be used is skipped in training, this one must not be."""
    error = cv2.error("Failed to allocate 805306368 bytes")
    error.code, error.err = cv2.Error.StsNoMem, str(error)

    def imdecode(*_):
        raise error

    monkeypatch.setattr(cv2, "imdecode", imdecode)
    with pytest.raises(MemoryError):
        decode_image(encoded(".png", noise_image(30, 40)))


def test_a_lower_limit():
    data = encoded(".png", noise_image(30, 40))
    with pytest.raises(TooManyPixels, match="is 40 x 30 pixels, more than the 1,199 that are decoded") as error:
        decode_image(data, max_pixels=1199)
    assert error.value.size == (30, 40) and error.value.limit == 1199


def test_the_decoder_gets_a_picture_within_the_limit():
    assert decode_image(encoded(".png", noise_image(30, 40)), max_pixels=1200).shape == (30, 40, 3)


def test_the_number_of_scans_of_a_jpeg_is_limited():
    """100 scans of 50 million pixels are more work than 16 scans of the largest picture."""
    data = cv2.imencode(".jpg", noise_image(16, 16), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    own = data.count(b"\xff\xda")
    frame, scan = data.index(b"\xff\xc2"), data.index(b"\xff\xda")
    data = data[: frame + 5] + struct.pack(">HH", 10_000, 5000) + data[frame + 9 :]
    header = data[scan : scan + 14]
    hidden = b"\xff\x01\xff\xff"  # the first marker has no length, so that the second is not its length
    for many in (header * 100, hidden + header * 100):
        with pytest.raises(ValueError, match=f"is a JPEG file of {own + 100} scans"):
            decode_image(data[:-2] + many + data[-2:])
    find_end(data + header * 100, 50_000_000)  # bytes behind the end, such as a film
    in_a_comment = b"\xff\xfe" + struct.pack(">H", 2 + 200) + b"\xff\xda" * 100
    find_end(data[:-2] + in_a_comment + data[-2:], 50_000_000)


def test_a_decoder_reads_one_scan_if_it_contains_all_components():
    data = encoded(".jpg", noise_image(64, 64))
    scan = data[data.index(b"\xff\xda") : -2]
    find_end(data[:-2] + scan * 100 + data[-2:], 50_000_000)
    first_only = data.replace(b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11", b"\xff\xda\x00\x08\x01\x01\x00")
    assert first_only != data
    with pytest.raises(ValueError, match="101 scans"):
        find_end(first_only[:-2] + scan * 100 + data[-2:], 50_000_000)


@pytest.mark.parametrize("kind", [b"tEXt", b"IDAT", b"fdAT"])
def test_a_chunk_longer_than_its_file_is_refused(kind):
    """OpenCV 4.14 allocates the 2 GB that the chunk says."""
    data = encoded(".png", noise_image(16, 16))
    body = data.index(b"IDAT") - 4
    long = struct.pack(">I", 2**31 - 1) + kind + b"a\0b"
    for at in (body, len(data) - 12):
        with pytest.raises(ValueError, match="is cut off"):
            decode_image(data[:at] + long + data[at:])


def test_a_decoder_gets_pictures_with_anything_behind_their_end():
    data = encoded(".png", noise_image(16, 16))
    assert decode_image(data + b"\xff" * 100).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000", "TGA", "ICO"])
def test_other_formats_are_refused(kind):
    """Decoders of some need much time or memory for few pixels: GIF with clear codes, JPEG 2000 with small tiles."""
    file = io.BytesIO()
    Image.fromarray(noise_image(16, 16)).save(file, kind)
    with pytest.raises(ValueError, match=r"is not an image \(JPEG, PNG, BMP, WebP, TIFF or PNM\), or is damaged"):
        decode_image(file.getvalue())


def test_sizes_are_read_without_decoding(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_bomb(HUGE, HUGE))
    with pytest.raises(UserError, match="bomb.png is 60000 x 60000 pixels, .* OPENCV_IO_MAX_IMAGE_PIXELS"):
        image_size(str(tmp_path / "bomb.png"))
    (tmp_path / "late.jpg").write_bytes(
        jpeg_with_size(30, 40, b"\xff\xe1\xff\xff" + bytes(65533) + b"\xff\xe2\xff\xff" + bytes(65533))
    )
    assert image_size(str(tmp_path / "late.jpg")) == (30, 40)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match="text.jpg cannot be read as an image"):
        image_size(str(tmp_path / "text.jpg"))


@pytest.mark.parametrize("decode_all", [False, True])
def test_the_check_of_a_dataset_reports_them(decode_all, tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_bomb(HUGE, HUGE))
    entry = {"id": 1, "file_name": "bomb.png", "width": HUGE, "height": HUGE}
    document = {"images": [entry], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    problems = check(find_dataset(str(tmp_path / "a.json"), str(tmp_path)), decode_all).problems
    [where] = [problem.where for problem in problems if problem.kind == "file that is no readable image"]
    assert "bomb.png is 60000 x 60000 pixels" in where.replace("bomb.png: is", "bomb.png is")
    assert "OPENCV_IO_MAX_IMAGE_PIXELS" in where


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 8, 9, 256])
def test_turned_pictures_have_the_size_that_the_decoder_gives_them(kind, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise_image(320, 480)).save(tmp_path / "a", kind, exif=exif)  # WebP: EXIF data is the last chunk
    turned = orientation in (6, 8) and (kind != "WEBP" or decode.turns_webp())
    expected = (480, 320) if turned else (320, 480)
    assert image_size(str(tmp_path / "a")) == decode.read_image(str(tmp_path / "a")).shape[:2] == expected


def test_a_tiled_tiff_says_the_size_of_its_tiles_too():
    data = tiff((256, 20), (257, 30), (322, 160), (323, 320))
    assert header_size(data) == (30, 20) and header_sizes(data) == [(30, 20), (320, 160)]


# The variable ---------------------------------------------------------------------------------------------

PROGRAM = """
import struct, sys, warnings
warnings.simplefilter("error" if "strict" in sys.argv else "always")
from ppdet_repro.data.transform.decode import DECODER_LIMIT
import cv2, numpy as np
print(DECODER_LIMIT)
for side in map(int, sys.argv[1:3]):
    head = b"BM" + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    try:
        cv2.imdecode(np.frombuffer(head, np.uint8), 1)
    except cv2.error as error:
        print(side, error.err)
"""


@pytest.mark.parametrize(
    "value, limit, sides, warns",
    [
        (None, 2**28, (16384, 16385), False),  # 16384^2 is 2^28
        ("100", 100, (10, 11), False),
        ("many", 2**28, (16384, 16385), True),  # with which OpenCV alone would end the process
    ],
)
def test_the_limit_is_the_decoders_own(value, limit, sides, warns, monkeypatch):
    monkeypatch.delenv("OPENCV_IO_MAX_IMAGE_PIXELS", raising=False)
    if value is not None:
        monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", value)
    command = [sys.executable, "-c", PROGRAM, *map(str, sides)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{limit}\n{sides[1]} pixels <= CV_IO_MAX_IMAGE_PIXELS\n"
    assert ("OPENCV_IO_MAX_IMAGE_PIXELS='many' is not a number of pixels; 268435456 is used" in done.stderr) == warns
