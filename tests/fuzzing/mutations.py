"""Random damage of bytes and texts."""

from __future__ import annotations

import random
from typing import List, Sequence

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1]
PAIRS = [  # names, numbers and signs that mean something else when one stands for the other
    (b"numpy", b"posix"), (b"ndarray", b"matrix"), (b"multiarray", b"umath"), (b"_reconstruct", b"fromstring"),
    (b"f4", b"O8"), (b"f4", b"V4"), (b"f4", b"f2"), (b"f4", b"i1"), (b"dtype", b"array"), (b"OrderedDict",
    b"defaultdict"),
    (b"latin1", b"rot13"), (b"tuple", b"exec"), (b"tuple", b"eval"), (b"R", b"b"), (b"b", b"R"), (b"t", b"2"),
    (b"\x94", b"2"), (b"q\x00", b"h\x00"), (b"K\x01", b"K\xff"), (b"\x85", b"\x87"), (b"true", b"!!int x"), (b": ",
    b": &a "),
    (b": ", b": *a "), (b": ", b": !!bool "), (b"\n", b"\n  "), (b"  ", b""), (b"[", b"{"), (b"]", b""), (b"\n", b"\r"),
    (b"1", b"9" * 30), (b"1", b".nan"), (b"1", b"-1"), (b"a", b"\x00"), (b"e", b"\xff"), (b"o", b"\x1b[2J"),
    (b'"', b"'"), (b"<", b"&"), (b">", b""), (b"id", b"di"), (b"0", b"1e999"), (b".", b"/"), (b",", b""), (b"/",
    b"/../"),
]  # fmt: skip


def damaged(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The data with one to six random changes; some put in pieces of the others."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        data = rng.choice(CHANGES)(rng, data, others)
    return data


def place(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def flip(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _flip in range(rng.choice([1, 1, 2, 8])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, width = place(rng, data), rng.choice([1, 2, 4, 8])
    return data[:at] + (rng.choice(EXTREMES) % (1 << 8 * width)).to_bytes(width, "little") + data[at + width :]


def truncate(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: place(rng, data)]


def remove(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = place(rng, data)
    return data[:at] + data[at + rng.choice([1, 2, 8, 100, 1000]) :]


def repeat(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, size = place(rng, data), rng.choice([1, 2, 8, 50, 200])
    piece = data[at : at + size]
    return data[:at] + piece * rng.choice([2, 3, 100, 20_000 // size]) + data[at + size :]


def move(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, size = place(rng, data), rng.choice([1, 4, 20, 100])
    piece, rest = data[at : at + size], data[:at] + data[at + size :]
    to = place(rng, rest)
    return rest[:to] + piece + rest[to:]


def splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    at, start = place(rng, data), place(rng, other)
    piece = other[start : start + rng.choice([2, 10, 100, 5000])]
    return data[:at] + piece + data[at + rng.choice([0, len(piece)]) :]


def insert(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = place(rng, data)
    return data[:at] + rng.randbytes(rng.choice([1, 2, 4, 30])) + data[at:]


def exchange(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Replace one occurrence, or all, of a name by another."""
    old, new = rng.choice(PAIRS)
    where = [i for i in range(len(data) if len(data) < 5000 else 5000) if data.startswith(old, i)]
    if not where or rng.random() < 0.3:
        return data.replace(old, new, 1000)
    at = rng.choice(where)
    return data[:at] + new + data[at + len(old) :]


def nest(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, sign = place(rng, data), rng.choice([b"[", b"{", b"(", b"]", b"- ", b"{a: ", b"<a>"])
    return data[:at] + sign * rng.choice([30, 1000, 50_000]) + data[at:]


CHANGES: List = [flip, flip, overwrite, truncate, remove, repeat, move, splice, insert, exchange, exchange, nest]
