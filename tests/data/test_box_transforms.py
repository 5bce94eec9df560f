"""Relative boxes and padding of boxes."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, sample

from ppdet_repro.data.transform.base import Compose
from ppdet_repro.data.transform.boxes import BboxXYXY2XYWH, NormalizeBox, PadBox
from ppdet_repro.utils.errors import UserError


def test_relative_boxes_with_center_and_size_then_padding():
    given = sample(np.zeros((20, 40, 3)), [[4, 2, 12, 10], [0, 0, 40, 20]])
    given["gt_score"] = np.array([[0.5], [1]], np.float32)
    given["gt_class"] += 3
    out = NormalizeBox()(given, context())
    np.testing.assert_allclose(out["gt_xyxy_relative"], [[0.1, 0.1, 0.3, 0.5], [0, 0, 1, 1]])
    out = BboxXYXY2XYWH()(out, context())
    np.testing.assert_allclose(out["gt_cxcywh_relative"], [[0.2, 0.3, 0.2, 0.4], [0.5, 0.5, 1, 1]], rtol=1e-6)
    assert "gt_xyxy_relative" not in out
    assert out["gt_bbox"].tolist() == [[4, 2, 12, 10], [0, 0, 40, 20]]  # still pixels
    three = PadBox(3)(dict(out), context())
    for key in ("gt_bbox", "gt_cxcywh_relative"):
        assert three[key].shape == (3, 4) and not three[key][2].any()
    assert three["gt_class"].tolist() == [3, 4, 0] and three["gt_score"].tolist() == [0.5, 1, 0]
    one = PadBox(1)(dict(out), context())
    assert one["gt_bbox"].shape == (1, 4) and one["gt_class"].tolist() == [3]


def test_padding_before_and_after_the_change_of_format_is_the_same():
    """PaddleDetection's configs apply PadBox in between. Both orders give the same boxes."""
    given = sample(np.zeros((20, 40, 3)), [[4, 2, 12, 10]])
    orders = ([PadBox(2), BboxXYXY2XYWH()], [BboxXYXY2XYWH(), PadBox(2)])
    first, second = (Compose([NormalizeBox(), *order])(dict(given), context()) for order in orders)
    np.testing.assert_array_equal(first["gt_cxcywh_relative"], second["gt_cxcywh_relative"])


def test_center_and_size_need_relative_boxes():
    with pytest.raises(UserError, match="BboxXYXY2XYWH: image .* has no relative boxes; put NormalizeBox before it"):
        BboxXYXY2XYWH()(sample(np.zeros((4, 4, 3)), [[0, 0, 2, 2]]), context())
    assert "gt_bbox" not in BboxXYXY2XYWH()({"image": np.zeros((4, 4, 3))}, context())  # images without annotations


def test_no_boxes_are_padded_too():
    out = PadBox(2)(sample(np.zeros((4, 4, 3)), []), context())
    assert out["gt_bbox"].shape == (2, 4) and out["gt_class"].shape == (2,)
