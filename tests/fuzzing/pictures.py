"""Pictures in all formats that the decoder knows: damaged genuine ones, and headers that claim what is not so.

They are read with a limit of `LIMIT` pixels, the server's, so that a picture within the limit is small for the machine.
"""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import numpy as np
from PIL import Image

from ppdet_repro.data.transform.base import ImageError
from ppdet_repro.data.transform.decode import decode_image, image_size, read_image
from ppdet_repro.utils.errors import UserError
from tests.fuzzing.mutations import damaged

LONGEST = 2 << 20  # bytes
LIMIT = 25_000_000  # pixels; see `ENVIRONMENT` in runner.py
SIDES = [
    0,
    1,
    2,
    7,
    255,
    4999,
    5000,
    5001,
    16383,
    16384,
    30_000,
    65_535,
    65_536,
    1 << 20,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
]
SIDES += [(1 << 32) - 1]
PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
TIFF_TAGS = [
    254,
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    274,
    277,
    278,
    279,
    282,
    284,
    317,
    320,
    322,
    323,
    324,
    325,
    330,
    338,
]
TIFF_TAGS += [339, 347, 513, 514, 530, 532, 32997, 32998]
BOMB = zlib.compress(bytes(64 << 20), 9)  # 64 KB that become 64 MB


def read(folder: Path) -> None:
    """Read a picture in all ways: its header alone, with another limit, and whole."""
    path = str(folder / "picture")
    with contextlib.suppress(UserError):
        image_size(path)
    with contextlib.suppress(ValueError):
        decode_image((folder / "picture").read_bytes(), max_pixels=1000)
    try:
        image = read_image(path)
    except ImageError as error:
        raise UserError(str(error)) from error
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size <= 3 * LIMIT


def generate(rng: random.Random) -> Dict[str, bytes]:
    """One picture."""
    data = rng.choice(genuine())
    kind = rng.random()
    if kind < 0.5:
        data = claim(rng, data)
    if kind > 0.4:
        data = damaged(rng, data, genuine())
    return {"picture": data[:LONGEST]}


def claim(rng: random.Random, data: bytes) -> bytes:
    """Change the fields of a header in one to three ways."""
    changes: Dict[bytes, Callable[[random.Random, bytes], bytes]] = {
        JPEG_START: jpeg, PNG_START[:2]: png, b"II": tiff, b"MM": tiff, b"RI": webp, b"BM": bitmap
    }  # fmt: skip
    for _ in range(rng.choice([1, 1, 2, 3])):
        data = changes.get(data[:2], text)(rng, data)
    return data


def put(data: bytes, at: int, piece: bytes) -> bytes:
    """Overwrite bytes."""
    return data[:at] + piece + data[at + len(piece) :]


def jpeg(rng: random.Random, data: bytes) -> bytes:
    """Change a segment, put something before the frame, or add scans."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((at, end))
        at = end
    choice = rng.randrange(6)
    frame = next((start for start, _ in segments if data[start + 1] in (0xC0, 0xC1, 0xC2)), None)
    if choice == 0 and frame:
        return put(data, frame + 5, struct.pack(">HH", *(rng.choice(SIDES) & 0xFFFF for _ in range(2))))
    if choice == 1 and segments:  # a marker without a segment, garbage, fill bytes, many comments, a frame of 1 x 1
        small = b"\xff\xc0\x00\x0b\x08\x00\x01\x00\x01\x01\x01\x11\x00"
        pieces = [
            b"\xff\x01",
            b"\xff\xd3",
            b"\0garbage",
            b"\xff" * 9000,
            b"\xff\xfe\0\2" * 20_000,
            small,
            b"\xff\0" * 9000,
        ]
        start = rng.choice(segments)[0]
        return data[:start] + rng.choice(pieces) * rng.choice([1, 3]) + data[start:]
    if choice == 2 and segments:
        (start, end), to = rng.choice(segments), rng.choice(segments)[0]
        return data[:to] + data[start:end] * rng.choice([1, 2, 100]) + data[to:]
    scan = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    if choice == 3 and frame:  # all scans again and again, with a large picture
        data = put(data, frame + 5, struct.pack(">HH", *(rng.choice([16, 2000, 4999]) for _ in range(2))))
        pieces = [scan, b"\xff\xda\0\x08\x01\x01\0\0\0\0", b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0", data[at:-2]]
        return data[:-2] + rng.choice(pieces) * rng.choice([3, 100, 5000]) + data[-2:]
    if choice == 4 and frame:
        return put(
            data, frame + rng.choice([1, 4, 9, 10, 11, 12, 13]), bytes([rng.choice([0, 1, 2, 0x44, 0xC2, 0xCA, 255])])
        )
    return data[: max(at, len(data) // 2)] + b"\xff\xd9"


def png(rng: random.Random, data: bytes) -> bytes:
    """Change, repeat, remove or add a chunk; all checksums are right."""
    chunks: List[Tuple[bytes, bytes]] = []
    at = len(PNG_START)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    index = rng.randrange(len(chunks) + 1)
    choice = rng.randrange(5)
    if choice == 0 and chunks and len(chunks[0][1]) == 13:
        header = bytearray(chunks[0][1])
        header[:8] = struct.pack(">II", rng.choice(SIDES), rng.choice(SIDES))
        header[8:10] = rng.choice([header[8:10], b"\x08\x02", b"\x01\x00", b"\x10\x06", b"\x08\x03"])
        header[12] = rng.choice([0, 1])
        chunks[0] = chunks[0][0], bytes(header)
    elif choice == 1:
        frame = struct.pack(">IIIIIHHBB", 0, *(rng.choice(SIDES) for _ in range(4)), 1, 1, rng.randrange(4), 0)
        chunks.insert(index, rng.choice([
            (b"iCCP", b"a\0\0" + BOMB), (b"zTXt", b"a\0\0" + BOMB), (b"iTXt", b"a\0\1\0\0\0" + BOMB), (b"IDAT", BOMB),
            (b"acTL", struct.pack(">II", rng.choice(SIDES), 0)), (b"fcTL", frame), (b"fdAT", b"\0\0\0\1" + BOMB),
            (b"tEXt", b"a\0" + b"\x1b[2J" * 500), (b"eXIf", b"II*\0\x08\0\0\0\xff\xff"), (b"PLTE", b"abc" * 300),
            (b"IHDR", struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0)), (b"CgBI", b"\x50\0\x20\x06"),
            (b"tRNS", b"a"),
        ]))  # fmt: skip
    elif choice == 2 and chunks:
        chunks[min(index, len(chunks) - 1) :][:1] = []
        chunks.insert(index, rng.choice(chunks)) if chunks else None
    elif choice == 3:
        chunks.pop(min(index, len(chunks) - 1)) if chunks else None
    else:
        chunks += [rng.choice(chunks or [(b"tEXt", b"a\0b")])] * rng.choice([2, 2000])
    return PNG_START + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def tiff(rng: random.Random, data: bytes) -> bytes:
    """Write the first directory anew at the end of the file, with changed and repeated entries."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8 or data[2:4] not in (b"*\0", b"\0*"):
        return put(data, rng.randrange(len(data) + 1), struct.pack("<I", rng.choice(SIDES)))
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return data
    (count,) = struct.unpack_from(order + "H", data, at)
    entries = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(min(count, 100))]
    entries = [entry for entry in entries if len(entry) == 12]
    for _ in range(rng.choice([1, 2, 4])):
        tag = rng.choice([*TIFF_TAGS, 256, 257, 322, 323, 278])
        values = [*SIDES, 16, 1, 2, 3, 5, 6, 7, 8, 32_773, 32_946, 34_676, 32_844, at, len(data) // 2]
        kind, number = rng.choice([3, 4, 4, 1, 5, 7, 12, 16]), rng.choice([1, 1, 1, 2, 5, 1 << 30])
        entry = struct.pack(order + "HHII", tag, kind, number, rng.choice(values))
        if order == ">" and entry[2:4] == b"\0\3" and entry[4:8] == b"\0\0\0\1":
            entry = entry[:8] + entry[10:] + b"\0\0"
        where = rng.choice([0, len(entries), rng.randrange(len(entries) + 1)])
        entries[where : where + rng.choice([0, 1])] = [entry]
    if rng.random() < 0.5:
        entries.sort(key=lambda entry: struct.unpack(order + "H", entry[:2]))
    following = rng.choice([0, 0, at, len(data), 8])
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "I", following)
    return data[:4] + struct.pack(order + "I", len(data)) + data[8:] + directory


def webp(rng: random.Random, data: bytes) -> bytes:
    """Change the sizes of the canvas, of a frame or of a chunk, or put the picture on a canvas."""
    side = lambda: (rng.choice(SIDES) & 0xFFFFFF).to_bytes(3, "little")  # noqa: E731
    choice = rng.randrange(4)
    if choice == 0:
        canvas = b"VP8X\x0a\0\0\0" + bytes([rng.choice([0, 2, 0x10, 0x12])]) + b"\0\0\0" + side() + side()
        rest = data[30:] if data[12:16] == b"VP8X" else data[12:]
        return b"RIFF" + struct.pack("<I", 4 + len(canvas + rest)) + b"WEBP" + canvas + rest
    if choice == 1:
        frame = (
            b"ANMF" + struct.pack("<I", 16 + len(data[12:])) + b"".join(side() for _ in range(5)) + b"\0" + data[12:]
        )
        return data + frame * rng.choice([1, 50])
    if choice == 2:
        return put(data, rng.choice([4, 16, 20, 21, 24, 26, 27, 28]), struct.pack("<I", rng.choice(SIDES)))
    return put(
        data, 21, struct.pack("<I", 0x10000000 | rng.choice(SIDES) & 0x3FFF | (rng.choice(SIDES) & 0x3FFF) << 14)
    )


def bitmap(rng: random.Random, data: bytes) -> bytes:
    """Change a field of the header."""
    value = rng.choice([*SIDES, 1, 4, 8, 24, 32, 40, 12, 108, 1 << 30])
    return put(data, rng.choice([2, 10, 14, 18, 18, 22, 22, 26, 28, 30, 34, 46]), struct.pack("<I", value))


def text(rng: random.Random, data: bytes) -> bytes:
    """Change a number or a sign of a text header."""
    words = data[:40].split(b" ")
    index = rng.randrange(len(words))
    choices = [
        str(rng.choice(SIDES)).encode(),
        b"-1",
        b"#" + b"a" * 5000 + b"\n",
        b"9" * 40,
        b"",
        b"5000\n5000\n255\n",
        b"P3",
    ]
    words[index] = rng.choice(choices)
    return b" ".join(words) + data[40:]


@cache
def genuine() -> List[bytes]:
    """Small pictures in all formats, also those that are refused, and large ones of few bytes."""
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    pixels[8:40, 8:56] = 90
    rgb = Image.fromarray(pixels)
    gray, alpha, palette, bits = rgb.convert("L"), rgb.convert("RGBA"), rgb.quantize(16), rgb.convert("1")
    deep, real = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), rgb.convert("F")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    frames = {"save_all": True}
    made = [
        (rgb, "JPEG", {}), (rgb, "JPEG", {"progressive": True}), (gray, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True, "subsampling": 0}), (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "JPEG", {"restart_marker_rows": 1}), (rgb, "MPO", frames),
        (rgb, "PNG", {}), (gray, "PNG", {"exif": exif}), (alpha, "PNG", {}), (palette, "PNG", {}), (bits, "PNG", {}),
        (deep, "PNG", {}), (rgb, "PNG", frames),
        (rgb, "BMP", {}), (palette, "BMP", {}), (bits, "BMP", {}), (alpha, "BMP", {}),
        (rgb, "WEBP", {}), (rgb, "WEBP", {"lossless": True}), (alpha, "WEBP", {"exif": exif}), (rgb, "WEBP", frames),
        (rgb, "TIFF", {}), (gray, "TIFF", {}), (deep, "TIFF", {}), (real, "TIFF", {}),
        (rgb.convert("CMYK"), "TIFF", {}), (gray.convert("I;16B"), "TIFF", {}), (rgb, "TIFF", frames),
        (palette, "TIFF", {"compression": "packbits"}), (bits, "TIFF", {"compression": "group4"}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}), (rgb, "TIFF", {"compression": "jpeg"}),
        (alpha, "TIFF", {"compression": "tiff_adobe_deflate"}), (rgb, "TIFF", {"big_tiff": True}),
        (rgb, "PPM", {}), (gray, "PPM", {}), (bits, "PPM", {}), (deep, "PPM", {}),
        (rgb, "GIF", {}), (rgb, "JPEG2000", {}), (rgb, "TGA", {}), (rgb, "ICO", {}),
    ]  # fmt: skip
    found = []
    for image, kind, options in made:
        file = io.BytesIO()
        more = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")] if options is frames else []
        image.copy().save(file, kind, append_images=more, **options)  # saving leaves settings of the format in an image
        found.append(file.getvalue())
    found += [
        b"P3\n2 2\n255\n" + b"1 2 3 " * 4,
        b"P1\n2 2\n1 0 1 0",
        b"P6\n# comment\n2 2\n65535\n" + b"ab" * 12,
        tiled(order="<"),
    ]
    kinds = {"PNG": {}, "JPEG": {"progressive": True}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}}
    return [*found, tiled(order=">"), *(large(kind, options) for kind, options in kinds.items())]


def large(kind: str, options: Dict[str, object]) -> bytes:
    """A picture of few bytes with as many pixels as the limit allows."""
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def tiled(order: str) -> bytes:
    """A TIFF of 40 x 30 pixels in tiles of 16 x 16."""
    count = 3 * 2
    tiles = [zlib.compress(bytes(16 * 16 * 3))] * count
    start, offsets = 8, []
    for tile in tiles:
        offsets.append(start)
        start += len(tile)
    more = struct.pack(f"{order}{count}I{count}I3H", *offsets, *map(len, tiles), 8, 8, 8)
    tags = [
        (256, 40),
        (257, 30),
        (258, start + 8 * count),
        (259, 8),
        (262, 2),
        (277, 3),
        (284, 1),
        (322, 16),
        (323, 16),
    ]
    tags += [(324, start), (325, start + 4 * count)]
    counts = {258: 3, 324: count, 325: count}
    entries = []
    for tag, value in tags:
        kind = 3 if tag == 258 else 4
        entries.append(struct.pack(order + "HHII", tag, kind, counts.get(tag, 1), value))
    at = start + len(more)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return head + b"".join(tiles) + more + directory
