"""Weight files: damaged genuine ones of five origins, and random programs for the machine that reads pickles."""

from __future__ import annotations

import collections
import io
import json
import pickle
import random
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Dict, List

import numpy as np

from ppdet_repro.utils.pickle_machine import INSTRUCTIONS
from ppdet_repro.utils.weights import named_arrays, read_entries, read_state
from tests.fuzzing.mutations import EXTREMES, damaged
from tests.paths import FIXTURES

NAMES = [
    "numpy dtype", "numpy ndarray", "numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar",
    "numpy.core.numeric _frombuffer", "_codecs encode", "collections OrderedDict", "builtins tuple", "builtins bytes",
    "builtins eval", "builtins exec", "builtins getattr", "posix system", "os system", "subprocess Popen", "numpy load",
    "numpy.core.multiarray fromfile", "builtins bytearray", "copyreg _reconstructor", "builtins object", "io open",
    "numpy matrix", "builtins map", "builtins range", "ctypes string_at", "pickle loads", "builtins __import__",
]  # fmt: skip
TYPES = ["f4", "f8", "i1", "u2", "b1", "O8", "O", "V8", "S4", "U1", "c8", "f16", "M8[s]", "f4,O", "<f4", ">i8", "x"]


def generate(rng: random.Random) -> Dict[str, bytes]:
    """The content of the file that `read` reads."""
    if rng.random() < 0.5:
        suffix, data = rng.choice(genuine())
        return {f"a{suffix}": damaged(rng, data, [other for _, other in genuine()])}
    return {"a.pdparams": program(rng)}


def read(folder: Path) -> None:
    """Read the file as weights, and as the optimizer's file of a checkpoint of PaddleDetection."""
    (path,) = folder.iterdir()
    _, others = read_entries(path, ("LR_Scheduler", "last_epoch", "master_weights"))
    with suppress(ValueError, TypeError):  # see paddledet_checkpoint.restore
        named_arrays(others.get("master_weights", {}))
    read_state(path)


@cache
def genuine() -> List:
    """Suffixes and contents: Paddle 2.6, Paddle 3.2, this package, PaddleDetection's forms, safetensors."""
    files = [*FIXTURES.glob("paddle_versions/*/*.pdparams"), *FIXTURES.glob("paddle_versions/*/epoch_0001/*.pd*")]
    found = [(path.suffix, path.read_bytes()) for path in sorted(files)] * 2
    table = {f"backbone.layer{i}.weight": f"conv2d_{i}.w_0" for i in range(4)}
    detection = collections.OrderedDict((name, np.ones((2, i), np.float32)) for i, name in enumerate(table))
    detection["StructuredToParameterName@@"] = table
    schedule = {"last_epoch": 3, "last_lr": 0.1}
    optimizer = {"a.w_0_moment1_0": np.zeros(3), "LR_Scheduler": schedule, "last_epoch": 2}
    optimizer["master_weights"] = {"a.w_0": ("a.w_0", np.arange(3, dtype=np.uint16))}
    pieces = {"a@@.0": np.zeros(4), "a@@.1": np.zeros(2), "b": np.arange(3, dtype=np.uint16)}
    pieces["UnpackBigParamInfor@@"] = {"a": {"OriginShape": (2, 3), "slices": ["a@@.0", "a@@.1"]}}
    pairs = {"a": ("conv2d_0.w_0", np.zeros((1, 2)))}
    made = [pickle.dumps(x, p) for x in (detection, optimizer, pieces, pairs) for p in (2, 4, 5)]
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    safetensors = len(header).to_bytes(8, "little") + header + bytes(4)
    return [*found, *((".pdparams", data) for data in made * 2), *[(".safetensors", safetensors)] * 4]


def program(rng: random.Random) -> bytes:
    """A random pickle: instructions with random arguments, pieces that make arrays, and repetitions of both."""
    out = io.BytesIO()
    out.write(rng.choice([b"\x80\x02", b"\x80\x04", b"\x80\x05", b"\x80\x02}(", b""]))
    weights = rng.choice([(1, 30, 0), (1, 100, 1), (5, 1, 1), (3, 0, 1)])  # mostly arrays, or mostly anything
    for _ in range(rng.choice([3, 10, 40, 200])):
        piece = rng.choices([instruction, array, state], weights)[0](rng)
        out.write(piece * rng.choice([1] * 40 + [3, 100, 100_000 // (len(piece) + 1)]))
    out.write(rng.choice([b".", b"u.", b"t.", b"s.", b"R.", b"b.", b""]))
    return out.getvalue()


def instruction(rng: random.Random) -> bytes:
    """Any instruction; unknown ones and those of a real pickle alike."""
    code = rng.choice(list(INSTRUCTIONS)) if rng.random() < 0.95 else rng.randbytes(1)
    if code in b"ILFVgp":
        return code + rng.choice([b"1", b"01", b"-5", b"9" * 700, b"x", b"1e999", b"\\u0041\\", b"0"]) + b"\n"
    if code == b"c":
        return b"c" + rng.choice(NAMES).replace(" ", "\n").encode() + b"\n"
    if code in b"U\x8cC\x8aKhq\x80":
        text = rng.choice(TYPES).encode()
        return code + bytes([len(text)]) + text
    if code in b"XBTjrJ":
        return code + sized(rng, 4)
    if code in b"\x8d\x8e\x96\x95":
        return code + sized(rng, 8)
    return code + rng.randbytes({b"G": 8, b"M": 2}.get(code, 0))


def sized(rng: random.Random, width: int) -> bytes:
    """A length and some bytes, which are of that length or not."""
    data = rng.randbytes(rng.choice([0, 1, 4, 8, 300]))
    length = len(data) if rng.random() < 0.8 else rng.choice(EXTREMES) % (1 << 8 * width)
    return length.to_bytes(width, "little") + data


def refer(rng: random.Random, name: str) -> bytes:
    module, _, name = name.partition(" ")
    if rng.random() < 0.5:
        return f"c{module}\n{name}\n".encode()
    return b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93"


def number_type(rng: random.Random, name: str) -> bytes:
    """A call of dtype, and often its state."""
    text = b"\x8c" + bytes([len(name)]) + name.encode()
    order = b"\x8c\x01" + rng.choice([b"<", b">", b"|", b"x"])
    state = b"(K\x03" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    return refer(rng, "numpy dtype") + text + rng.choice([b"\x85", b"\x89\x88\x87"]) + b"R" + state * rng.randrange(2)


def shape(rng: random.Random, count: int) -> bytes:
    """The sides of an array, which has so many numbers or not."""
    if rng.random() < 0.9:
        return b"(J" + count.to_bytes(4, "little") + b"t"
    sides = [rng.choice([0, 1, 2, 3, 255]) for _ in range(rng.choice([0, 1, 1, 2, 3, 40]))]
    big = b"\x8a\x08" + rng.choice(EXTREMES).to_bytes(8, "little")
    return b"(" + b"".join(b"K" + bytes([side]) for side in sides) + big * (rng.random() < 0.3) + b"t"


def array(rng: random.Random) -> bytes:
    """A name, and one of the three ways by which NumPy's pickles make arrays; in most cases an array comes of it."""
    data, name = rng.randbytes(rng.choice([0, 8, 24, 800])), rng.choice(TYPES[: 5 if rng.random() < 0.97 else None])
    kind, sides = number_type(rng, name), shape(rng, len(data) // {"f4": 4, "f8": 8, "u2": 2}.get(name, 1))
    raw = b"B" + len(data).to_bytes(4, "little") + data + b"\x94" * rng.randrange(2)
    key = b"\x8c\x01" + rng.choice([b"a", b"b", b"c"])
    way = rng.randrange(9)
    if way == 0:
        return key + refer(rng, "numpy.core.multiarray scalar") + kind + raw + b"\x86R"
    if way < 5:
        return key + refer(rng, "numpy.core.numeric _frombuffer") + b"(" + raw + kind + sides + b"\x8c\x01CtR"
    new = refer(rng, "numpy.core.multiarray _reconstruct") + refer(rng, "numpy ndarray") + b"K\x00\x85C\x01b\x87R"
    return key + new + b"(K\x01" + sides + kind + rng.choice([b"\x88", b"\x89"]) + raw + b"tb"


def state(rng: random.Random) -> bytes:
    """A call of a random name with random arguments, and a state for its result."""
    arguments = b"".join(instruction(rng) for _ in range(rng.randrange(3)))
    after = rng.choice([b"", b"}b", b"(K\x01tb", b"Nb", b"}\x94b"])
    return refer(rng, rng.choice(NAMES)) + b"(" + arguments + b"tR" + after
