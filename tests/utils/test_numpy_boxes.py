"""Overlaps of boxes in NumPy, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ppdet_repro.utils.boxes import areas, overlaps, shape_iou


@pytest.mark.parametrize("over, expected", [("iou", 50 / 250), ("iof", 50 / 100), ("ios", 50 / 100)])
def test_the_intersection_is_divided_by_the_union_the_first_or_the_smaller_box(over, expected):
    # 10 x 10 and 10 x 20 pixels share 5 x 10; the union is 100 + 200 - 50
    a, b = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 20]])
    assert overlaps(a, b, over).tolist() == pytest.approx([expected])
    if over == "iof":
        assert overlaps(b, a, over).tolist() == [50 / 200]


def test_overlap_with_a_crop():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 4, 4], [6, 6, 8, 8]], np.float32)
    crop = np.array([2, 2, 6, 6], np.float32)  # area 16
    # 4 / (16 + 16 - 4), 4 / (4 + 16 - 4), 0
    np.testing.assert_allclose(overlaps(boxes, crop), [1 / 7, 1 / 4, 0], rtol=1e-6)
    # of the box: 4/16, 4/4, 0. (PaddleDetection divides by the areas of all boxes at once here.)
    np.testing.assert_allclose(overlaps(boxes, crop, "iof"), [1 / 4, 1, 0], rtol=1e-6)


def test_corners_that_are_pixels_of_the_box():
    boxes = np.array([[0, 0, 9, 9], [9, 9, 18, 18], [10.5, 0, 12, 9]])
    np.testing.assert_allclose(overlaps(boxes[:1], boxes, extra=1.0), [1, 1 / 199, 0])  # 1 common pixel; the gap counts
    np.testing.assert_allclose(overlaps(boxes[:1], boxes, extra=1.0, touching=False), [1, 0, 0])
    np.testing.assert_allclose(overlaps(boxes[:1], boxes), [1, 0, 0])


def test_boxes_without_area():
    point, inverted = np.array([5.0, 5, 5, 5]), np.array([5.0, 5, 4, 4])
    assert overlaps(point, point) == 0 and overlaps(point, point, flat=np.inf) == np.inf
    assert overlaps(point, np.array([6.0, 6, 6, 6]), flat=np.inf) == 0
    assert areas(np.stack([point, inverted]), extra=1.0).tolist() == [1, 0]


def test_shape_iou():
    anchors = np.array([[8, 8], [16, 8], [32, 32], [48, 64]], np.float64)
    # 8x8 in 16x8: 64/128; 32x16 with 16x8: 128/512; with 48x64: 512/3072
    ious = shape_iou(np.array([[8.0, 8], [32, 16]]), anchors)
    np.testing.assert_allclose(ious[0], [1, 0.5, 64 / 1024, 64 / 3072])
    np.testing.assert_allclose(ious[1], [64 / 512, 128 / 512, 512 / 1024, 512 / 3072])
