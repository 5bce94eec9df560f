"""Mixup and CutMix."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, sample, scripted

from ppdet_repro.data.transform.mix import Cutmix, Mixup
from ppdet_repro.utils.errors import UserError


def two(first=(2, 3), second=(4, 2)):
    a = sample(np.full((*first, 3), 100, np.uint8), [[0, 0, 2, 2]])
    b = sample(np.full((*second, 3), 200, np.uint8), [[0, 0, 1, 1], [1, 1, 2, 2]])
    return a, lambda: b


def test_mixup_by_hand():
    given, draw = two()
    out = Mixup()(given, scripted(0.25, draw=draw))
    # both: .25*100 + .75*200 = 175; only the first: 25; only the second: 150; neither: 0
    assert out["image"].dtype == np.uint8
    assert out["image"][..., 0].tolist() == [[175, 175, 25], [175, 175, 25], [150, 150, 0], [150, 150, 0]]
    assert out["gt_bbox"].tolist() == [[0, 0, 2, 2], [0, 0, 1, 1], [1, 1, 2, 2]]
    assert out["gt_score"].tolist() == [[0.25], [0.75], [0.75]]
    assert out["gt_class"].tolist() == [[0], [0], [1]] and len(out["is_crowd"]) == 3


def test_cutmix_by_hand():
    given, draw = two((8, 8), (8, 8))
    out = Cutmix()(given, scripted(0.75, 4, 2, draw=draw))  # half the sides, 4 x 4, center x 4, y 2
    expected = np.full((8, 8), 100)
    expected[0:4, 2:6] = 200
    np.testing.assert_array_equal(out["image"][..., 0], expected)
    assert out["gt_score"].tolist() == [[0.75], [0.25], [0.25]]  # boxes stay whole
    assert len(out["gt_bbox"]) == 3


def test_cutmix_can_weigh_by_the_area_that_was_pasted():
    given, draw = two((8, 8), (8, 8))
    out = Cutmix(exact_area=True)(given, scripted(0.75, 0, 0, draw=draw))  # 2 x 2 of 64 remain at the corner
    np.testing.assert_allclose(out["gt_score"][:, 0], [1 - 4 / 64, 4 / 64, 4 / 64])


@pytest.mark.parametrize("mix", [Mixup, Cutmix])
def test_mixing_without_boxes_and_without_a_dataset(mix):
    given, draw = two()
    empty = {**given, **{key: given[key][:0] for key in ("gt_bbox", "gt_class", "is_crowd")}}
    assert len(mix()(empty, context(draw=draw))["gt_score"]) == 2
    image = given["image"]
    assert mix()(given, context())["image"] is image
    with pytest.raises(UserError, match="positive"):
        mix(alpha=0)


@pytest.mark.parametrize("mix", [Mixup, Cutmix])
def test_images_that_need_a_canvas_larger_than_any_image_are_not_mixed(mix):
    """A wide and a high strip of a million pixels each would need a canvas of 10^12."""
    given, draw = two((1, 2**20), (2**20, 1))
    image = given["image"]
    out = mix()(given, context(draw=draw))
    assert out["image"] is image and out["gt_bbox"].tolist() == [[0, 0, 2, 2]] and out["gt_score"].tolist() == [[1]]
