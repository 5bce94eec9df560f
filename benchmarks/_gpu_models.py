"""What benchmarks/gpu_prepare.py and benchmarks/gpu.py share: weights and images from seeds, and what is recorded.

The same numbers result with every version of NumPy, so that a graph travels without its weights. A folder with
model.onnx and weights.json has large weights in weights.bin, which `complete` writes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np

ALIGNMENT = 4096  # bytes; readers map the file into memory
SAMPLE = 50_000  # numbers of each output that are recorded
BEST = 100  # boxes that are recorded
CELL = 32  # pixels of one colour


def uniform(seed: int, count: int, limit: float) -> np.ndarray:
    """Float32 numbers [count] from -limit to limit, none of them closer to 0 than limit / 16384: FP16 can hold them.

    Only the bits of PCG64, which NumPy promises to keep, a conversion that is exact, and one product enter.
    """
    bits = np.random.PCG64(seed).random_raw((count + 1) // 2).view(np.uint32)[:count]
    odd = 2 * (bits >> 18).astype(np.int32) + 1 - (1 << 14)  # 14 bits
    return odd.astype(np.float32) * np.float32(limit / (1 << 14))


def generate(entry: Dict[str, Any]) -> bytes:
    """The bytes of one tensor of weights.json."""
    return uniform(entry["seed"], entry["count"], entry["limit"]).astype(entry["type"]).tobytes()


def complete(folder: Path) -> Path:
    """Write weights.bin if it is not there, and return the path of model.onnx. ValueError if other bytes result than
    those with which the outputs were recorded."""
    target = folder / "weights.bin"
    if not target.is_file():
        content = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
        target.write_bytes(joined(content["tensors"]))
        found = hashlib.sha256(target.read_bytes()).hexdigest()
        if found != content["sha256"]:
            target.unlink()
            raise ValueError(f"{folder}: the weights made from their seeds are not those of the recorded outputs")
    return folder / "model.onnx"


def joined(entries: List[Dict[str, Any]]) -> bytes:
    """All tensors at their offsets."""
    size = max((entry["offset"] + entry["bytes"] for entry in entries), default=0)
    data = bytearray(size)
    for entry in entries:
        data[entry["offset"] : entry["offset"] + entry["bytes"]] = generate(entry)
    return bytes(data)


def inputs_for(folder: Path, size: Sequence[int], batch: int) -> Dict[str, np.ndarray]:
    """The inputs of the network in a folder: an image of coloured squares from a seed, `batch` times. It is normalized
    if the steps in infer_cfg.yml normalize, otherwise it has values from 0 to 228."""
    height, width = size
    rows, columns = -(-height // CELL), -(-width // CELL)
    squares = uniform(1, 3 * rows * columns, 2.0).reshape(1, 3, rows, columns)
    if "NormalizeImage" not in (folder / "infer_cfg.yml").read_text(encoding="utf-8"):
        squares = squares * np.float32(57) + np.float32(114)
    image = np.repeat(np.repeat(squares, CELL, axis=2), CELL, axis=3)[..., :height, :width]
    return {
        "image": np.repeat(image, batch, axis=0),
        "im_shape": np.full([batch, 2], (height, width), np.float32),
        "scale_factor": np.ones([batch, 2], np.float32),
    }


def sample(array: np.ndarray) -> np.ndarray:
    """Of the first image's part of an output: up to `SAMPLE` numbers at equal distances, and its largest absolute value
    at the end."""
    flat = np.asarray(array[:1], np.float32).ravel()
    step = max(1, -(-flat.size // SAMPLE))
    return np.append(flat[::step], np.abs(flat).max(initial=0.0))


def candidates(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The first image's boxes [B, N, 4] and scores [B, K, N] as rows [N, 6] (best class, its score, corners), in order
    of descending score."""
    rows = np.concatenate([scores[0].argmax(axis=0)[:, None], scores[0].max(axis=0)[:, None], boxes[0]], axis=1)
    return rows[np.argsort(-rows[:, 1], kind="stable")]
