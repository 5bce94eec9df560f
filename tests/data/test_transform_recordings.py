"""Augmentations against recordings of PaddleDetection's.

PaddleDetection (commit 666f597f, Paddle 2.6.2) ran its own operators on the picture and the boxes below. Every random
number that it drew was recorded and is given to our transform in the same order. The fixture has the numbers, the
resulting boxes, and the means of the resulting image over 6 x 8 blocks.
"""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import pytest
from paths import FIXTURES
from transform_samples import scripted

from ppdet_repro.data.transform.autoaugment import AutoAugment
from ppdet_repro.data.transform.erase import RandomErasingImage
from ppdet_repro.data.transform.hsv import AugmentHSV, PhotoMetricDistortion
from ppdet_repro.data.transform.mosaic import Mosaic
from ppdet_repro.data.transform.resize import RandomShortSideResize
from ppdet_repro.data.transform.resize_crop import RandomResizeCrop, RandomSizeCrop
from ppdet_repro.data.transform.strong import RandomColorJitter, RandomGaussianBlur, RandomGrayscale

TRANSFORMS = (
    AugmentHSV,
    AutoAugment,
    Mosaic,
    PhotoMetricDistortion,
    RandomColorJitter,
    RandomErasingImage,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomResizeCrop,
    RandomShortSideResize,
    RandomSizeCrop,
)

BOXES = np.array([[4, 6, 30, 28], [20, 10, 79, 47], [0, 0, 80, 48]], np.float32)
MOSAIC_SIZES = [(48, 80), (30, 30), (90, 40), (100, 120), (70, 50)]


def picture(height, width, number):
    y, x, c = np.mgrid[:height, :width, :3]
    image = (x * (c + 1) * 2 + y * (3 - c) + 37 * number) % 256
    image[height // 4 : height // 2, width // 4 : width // 2] = 200 - 60 * np.arange(3)
    return image.astype(np.uint8)


def make_sample(height=48, width=80, number=0):
    numbers = np.arange(len(BOXES), dtype=np.int32)[:, None]
    return {
        "image": picture(height, width, number),
        "gt_bbox": BOXES * np.array([width / 80, height / 48] * 2, np.float32),
        "gt_class": numbers + 10 * number,
        "is_crowd": numbers % 2,
        "im_shape": np.array([height, width], np.float32),
        "scale_factor": np.ones(2, np.float32),
    }


def block_means(image):
    rows, columns = (np.linspace(0, side, count).astype(int) for side, count in zip(image.shape, (7, 9)))
    image = image.astype(np.float64)
    return [
        [image[top:bottom, left:right].mean((0, 1)) for left, right in zip(columns, columns[1:])]
        for top, bottom in zip(rows, rows[1:])
    ]


@lru_cache(maxsize=1)
def recordings():
    with np.load(FIXTURES / "transforms.npz") as file:
        cases = json.loads(file["cases"].tobytes())
        ends = np.cumsum([len(case["classes"]) for case in cases])
        return list(zip(cases, file["blocks"], np.split(file["boxes"], ends[:-1])))


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_the_results_are_those_of_paddledetection(kind):
    compared = 0
    for i, (case, blocks, boxes) in enumerate(recordings()):
        if case["name"] != kind.__name__:
            continue
        transform = kind(**case["settings"])
        samples = [make_sample(*size, number) for number, size in enumerate(MOSAIC_SIZES)]
        others = iter(samples[1:])
        context = scripted(*case["draws"], draw=others.__next__)
        result = transform(samples[0], context)
        where = f"recording {i}, {case['settings']}"
        assert result["image"].shape[:2] == tuple(case["shape"]), where
        np.testing.assert_allclose(block_means(result["image"]), blocks, atol=0.03, rtol=1e-5, err_msg=where)
        np.testing.assert_allclose(result["gt_bbox"], boxes, atol=2e-4, err_msg=where)
        assert result["gt_class"].ravel().tolist() == case["classes"], where
        assert result["is_crowd"].ravel().tolist() == case["crowd"], where
        assert not context.rng.values, f"{where}: {len(context.rng.values)} random numbers were not drawn"
        compared += 1
    assert compared
