"""Samples and random numbers for the tests of transforms."""

from __future__ import annotations

import cv2
import numpy as np

from ppdet_repro.data.transform.base import Context


class Scripted:
    """A random generator that returns the listed values, whichever method is called."""

    def __init__(self, *values):
        self.values = list(values)

    def _next(self, *args, **kwargs):
        return self.values.pop(0)

    random = uniform = integers = beta = permutation = normal = _next


def scripted(*values, progress=0.0, draw=None) -> Context:
    return Context(Scripted(*values), progress, draw)


def context(seed: int = 0, **values) -> Context:
    return Context(np.random.default_rng(seed), **values)


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def sample(image: np.ndarray, boxes=((1, 2, 5, 6),)) -> dict:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    classes = np.arange(len(boxes), dtype=np.int32)[:, None]
    return {
        "image": image,
        "im_id": np.array([7]),
        "im_shape": np.array(image.shape[:2], np.float32),
        "scale_factor": np.ones(2, np.float32),
        "gt_bbox": boxes,
        "gt_class": classes,
        "is_crowd": classes * 0,
    }


def encoded(kind: str, image: np.ndarray) -> bytes:
    return cv2.imencode(kind, image[..., ::-1])[1].tobytes()
