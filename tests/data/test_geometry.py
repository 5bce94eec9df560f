"""Flips, shifts, expansion and crops."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, noise_image, sample, scripted

from ppdet_repro.data.transform import geometry
from ppdet_repro.data.transform.color import RandomDistort
from ppdet_repro.data.transform.geometry import Crop, RandomCrop, RandomExpand, RandomFlip, RandomShift, boxes_in_crop


def test_flip_by_hand_and_twice():
    given = sample(noise_image(8, 10), [[1, 2, 4, 6]])
    image, box = given["image"].copy(), given["gt_bbox"].copy()
    out = RandomFlip(1.0)(given, context())
    assert out["gt_bbox"].tolist() == [[6, 2, 9, 6]]  # 10 - 4, 10 - 1
    np.testing.assert_array_equal(out["image"], image[:, ::-1])
    out = RandomFlip(1.0)(out, context())
    np.testing.assert_array_equal(out["image"], image)
    np.testing.assert_array_equal(out["gt_bbox"], box)
    assert RandomFlip(1.0)({"image": image}, context())["image"].shape == image.shape  # no boxes


def test_flip_happens_with_its_probability():
    image = np.eye(8)[..., None]
    flips = [RandomFlip(0.25)(sample(image), context(s))["image"][0, 0, 0] == 0 for s in range(400)]
    assert 70 < sum(flips) < 130


def test_shift_by_hand():
    given = sample(noise_image(10, 12), [[1, 1, 4, 4], [8, 0, 11, 2.5], [0, 8, 12, 10]])
    image = given["image"]
    out = RandomShift(1.0, max_shift=8)(given, scripted(0.0, (-2, 3)))  # up 2, right 3
    np.testing.assert_array_equal(out["image"][:8, 3:], image[2:, :9])
    assert not out["image"][8:].any() and not out["image"][:, :3].any()
    # [4, -1, 7, 2], [11, -2, 14, .5] and [3, 6, 15, 8], clipped to 12 x 10; the second is 1 wide: dropped
    assert out["gt_bbox"].tolist() == [[4, 0, 7, 2], [3, 6, 12, 8]]
    assert out["gt_class"].tolist() == [[0], [2]]
    assert len(out["is_crowd"]) == 2  # PaddleDetection leaves this one longer than the boxes


def test_a_shift_that_loses_every_box_does_not_happen():
    """PaddleDetection moves the boxes nevertheless, but not the image, which is a mistake."""
    for boxes in ([[0, 0, 3, 3]], []):
        given = sample(noise_image(10, 12), boxes)
        image, before = given["image"], given["gt_bbox"].copy()
        out = RandomShift(1.0, max_shift=9)(given, scripted(0.0, (-9, -9)))
        assert out["image"] is image
        np.testing.assert_array_equal(out["gt_bbox"], before)


def test_expand_by_hand():
    given = sample(np.full((4, 6, 3), 9, np.uint8), [[1, 1, 3, 3]])
    out = RandomExpand(fill_value=[1, 2, 3])(given, scripted(0.6, 2.5, 5, 7))  # ratio 2.5, y 5, x 7
    assert out["image"].shape == (10, 15, 3) and out["image"].dtype == np.float32
    assert out["image"][0, 0].tolist() == [1, 2, 3]
    assert (out["image"][5:9, 7:13] == 9).all() and (out["image"] == 9).sum() == 4 * 6 * 3
    assert out["gt_bbox"].tolist() == [[8, 6, 10, 8]]


def test_the_canvas_has_at_most_as_many_pixels_as_an_image_may_have(monkeypatch):
    monkeypatch.setattr(geometry, "DECODER_LIMIT", 96)
    given = sample(np.full((4, 6, 3), 9, np.uint8), [[1, 1, 3, 3]])
    out = RandomExpand()(given, scripted(0.6, 2.5, 1, 2))  # ratio 2 instead of 2.5: 8 * 12 = 96
    assert out["image"].shape == (8, 12, 3) and out["gt_bbox"].tolist() == [[3, 2, 5, 4]]


def test_expand_and_distort_skip_with_their_probability_a_quirk_kept():
    image = noise_image(4, 6)
    assert RandomExpand(prob=1.0)(sample(image), context())["image"] is image
    never = [0.5, 1.5, 1.0]
    out = RandomDistort([-18, 18, 1.0], never, never, never)(sample(image), context())
    np.testing.assert_array_equal(out["image"], image)


def test_a_crop_keeps_boxes_whose_center_is_inside():
    boxes = np.array([[0, 0, 6, 6], [0, 0, 3, 3], [4, 4, 8, 8], [4, 4, 9, 9]], np.float32)
    clipped, keep = boxes_in_crop(boxes, Crop(2, 2, 6, 6))
    # centers 3, 1.5, 6 (the far border is outside) and 6.5
    assert keep.tolist() == [True, False, False, False]
    assert clipped[0].tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize(
    "options", [{}, {"aspect_ratio": None, "cover_all_box": True}, {"ioumode": "iof"}, {"allow_no_crop": False}]
)
def test_crops_stay_inside_and_move_boxes_with_the_pixels(options):
    crops = 0
    for seed in range(40):
        image = np.zeros((40, 60, 3), np.uint8)
        image[10:30, 20:36] = 255
        given = sample(image, [[20, 10, 36, 30], [50, 30, 58, 38]])
        out = RandomCrop(**options)(given, context(seed))
        height, width = out["image"].shape[:2]
        crops += (height, width) != (40, 60)
        assert 0 < len(out["gt_bbox"]) == len(out["gt_class"]) == len(out["is_crowd"])
        for (x1, y1, x2, y2), label in zip(out["gt_bbox"].astype(int), out["gt_class"][:, 0]):
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
            if label == 0:  # the white rectangle
                assert out["image"][y1:y2, x1:x2].all()
    assert crops > 10


def test_the_largest_overlap_must_reach_the_threshold():
    given = sample(noise_image(20, 20), [[0, 0, 20, 20]])
    # scale .5, aspect 1, at the top left: IoU 100/400 < .3, so the crop is refused, and the last try too
    out = RandomCrop(thresholds=[0.3], allow_no_crop=False, num_attempts=2)(
        given, scripted(0.0, [0], 0.5, 1.0, 0, 0, 0.5, 1.0, 0, 0)
    )
    assert out["image"].shape == (20, 20, 3)
    # it reaches a threshold of .2, but the center (10, 10) is outside [0, 10)
    out = RandomCrop(thresholds=[0.2], allow_no_crop=False, num_attempts=1)(given, scripted(0.0, [0], 0.5, 1.0, 0, 0))
    assert out["image"].shape == (20, 20, 3)
    out = RandomCrop(thresholds=[0.2], allow_no_crop=False, num_attempts=1)(given, scripted(0.0, [0], 0.5, 1.0, 5, 4))
    assert out["image"].shape == (10, 10, 3) and out["gt_bbox"].tolist() == [[0, 0, 10, 10]]


def test_cover_all_box_asks_the_same_of_every_box():
    boxes = [[0, 0, 8, 8], [16, 16, 20, 20]]
    draws = (0.0, [0], 0.5, 1.0, 0, 0)  # the top left quarter holds the first box only
    for cover, size in ((False, 10), (True, 20)):
        transform = RandomCrop(thresholds=[0.1], allow_no_crop=False, num_attempts=1, cover_all_box=cover)
        assert transform(sample(noise_image(20, 20), boxes), scripted(*draws))["image"].shape[0] == size


def test_images_without_boxes_are_not_cropped():
    image = noise_image(20, 20)
    assert RandomCrop()(sample(image, []), context())["image"] is image
