"""Mosaic and the jittered crop, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import scripted

from ppdet_repro.data.transform.base import Context
from ppdet_repro.data.transform.mosaic import JitterCrop, Mosaic, window
from ppdet_repro.utils.errors import UserError


def flat(value, height=40, width=40, box=(0, 0, 40, 40)):
    """An image whose pixels and whose only class have the same value."""
    return {
        "image": np.full((height, width, 3), value, np.uint8),
        "gt_bbox": np.array([box], np.float32),
        "gt_class": np.array([[value]], np.int32),
    }


def context(others=(), seed=0):
    others = iter(others)
    return Context(np.random.default_rng(seed), 0.0, lambda: next(others))


def test_a_window_cuts_boxes_and_fills_what_is_beyond_the_image():
    # the window 10..30 x -5..15 of a 40 x 40 image: its 5 upper rows are outside. The box 0, 0, 20, 10 becomes
    # 0 - 10, 0 + 5, 20 - 10, 10 + 5 = -10, 5, 10, 15, cut to 0, 5, 10, 15; the box 32..40 is outside
    sample = flat(7, box=(0, 0, 20, 10))
    sample["gt_bbox"] = np.array([[0, 0, 20, 10], [32, 0, 40, 10]], np.float32)
    sample["gt_class"] = np.array([[1], [2]], np.int32)
    shown = window(sample, 10, -5, 20, 20, np.array([9.0, 9, 9]))
    assert (shown["image"][:5] == 9).all() and (shown["image"][5:] == 7).all()
    assert shown["gt_bbox"].tolist() == [[0, 5, 10, 15]] and shown["gt_class"].tolist() == [[1]]


def test_four_images_meet_at_a_point():
    first, *others = [flat(value, 100, 100, (0, 0, 100, 100)) for value in (1, 2, 3, 4)]
    sample = Mosaic([40, 60], prob=1.0)(first, context(others))
    image, boxes = sample["image"], sample["gt_bbox"]
    assert image.shape == (40, 60, 3)
    assert [int(image[y, x, 0]) for y, x in ((0, 0), (0, 59), (39, 0), (39, 59))] == [1, 2, 3, 4]
    x, y = boxes[0, 2:]
    assert 12 <= x <= 48 and 8 <= y <= 32
    # every image is larger than its quarter and all object, so the boxes are the quarters
    assert boxes.tolist() == [[0, 0, x, y], [x, 0, 60, y], [0, y, x, 40], [x, y, 60, 40]]
    assert sample["gt_class"].ravel().tolist() == [1, 2, 3, 4]
    assert sample["im_shape"].tolist() == [40, 60] and sample["scale_factor"].tolist() == [1, 1]


def test_small_images_lie_next_to_the_point():
    mosaic = Mosaic([100, 100], prob=1.0)
    sample = mosaic(flat(1, 4, 4, (0, 0, 4, 4)), context([flat(v, 4, 4, (0, 0, 4, 4)) for v in (2, 3, 4)]))
    x, y = sample["gt_bbox"][0, 2:]
    assert sample["gt_bbox"][0].tolist() == [x - 4, y - 4, x, y]
    assert sample["gt_bbox"][3].tolist() == [x, y, x + 4, y + 4]
    assert (sample["image"] > 0).any(axis=-1).sum() == 64


def test_boxes_outside_their_quarter_are_dropped():
    others = [flat(v, 100, 100, (99.5, 99.5, 100, 100)) for v in (2, 3, 4)]
    sample = Mosaic(20, prob=1.0)(flat(1, 100, 100, (99.5, 99.5, 100, 100)), context(others))
    assert sample["gt_bbox"].shape == (0, 4) and sample["gt_class"].shape == (0, 1)


def test_without_luck_or_other_images_nothing_happens():
    plain = flat(1)
    assert Mosaic(20, prob=0.0)(dict(plain), context())["image"] is plain["image"]
    assert Mosaic(20, prob=1.0)(dict(plain), Context(np.random.default_rng(0)))["image"] is plain["image"]


def test_a_jittered_crop_keeps_boxes_on_their_pixels():
    for seed in range(20):
        sample = flat(10, 50, 80, (30, 20, 50, 30))
        sample["image"][20:30, 30:50] = 200
        crop = JitterCrop(0.3)(sample, context(seed=seed))
        height, width = crop["image"].shape[:2]
        assert 20 <= height <= 80 and 32 <= width <= 128
        ((x1, y1, x2, y2),) = crop["gt_bbox"].astype(int).tolist()
        ys, xs = np.nonzero(crop["image"][..., 0] == 200)
        assert [x1, y1, x2, y2] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_a_crop_that_would_lose_every_box_does_not_happen():
    for seed in range(30):
        crop = JitterCrop(0.45)(flat(1, 40, 40, (0, 0, 2, 2)), context(seed=seed))
        assert len(crop["gt_bbox"]) == 1


STILL = {"degrees": [0, 0], "translate": [0, 0], "scale": [0.5, 0.5], "shear": [0, 0]}


def test_yolox_mosaic_shrinks_four_images_around_a_point():
    # four images of the size 40 x 40 meet at (30, 50) of a canvas of 80 x 80, which is then scaled by 0.5
    first, *others = [flat(value) for value in (1, 2, 3, 4)]
    mosaic = Mosaic(input_dim=40, enable_mixup=False, **STILL)
    sample = mosaic(first, scripted(0.0, 50.0, 30.0, 0, 0.5, 0, 0, draw=iter(others).__next__))
    # on the canvas: x from 0 to 30 and from 30 to 70; y from 10 to 50 and from 50 to 80
    assert sample["gt_bbox"].tolist() == [[0, 5, 15, 25], [15, 5, 35, 25], [0, 25, 15, 40], [15, 25, 35, 40]]
    assert sample["gt_class"].ravel().tolist() == [1, 2, 3, 4] and sample["gt_class"].dtype == np.int32
    image = sample["image"][..., 0]
    assert image.shape == (40, 40)
    assert [image[y, x] for y, x in ((10, 5), (10, 20), (35, 5), (35, 20), (2, 20), (20, 38))] == [1, 2, 3, 4, 114, 114]
    assert sample["im_shape"].tolist() == [40, 40] and sample["scale_factor"].tolist() == [1, 1]


def test_yolox_mosaic_blends_in_a_fifth_image():
    images = [flat(value) for value in (100, 100, 100, 100, 200)]
    # the fifth image is scaled by 2 to 80 x 80, mirrored, and its part from (10, 20) on is used
    draws = 0.0, 40.0, 40.0, 0, 0.5, 0, 0, 0.0, 2.0, 0.6, 20, 10
    images[4]["gt_bbox"] = np.array([[20, 10, 40, 30]], np.float32)
    mosaic = Mosaic(input_dim=40, mixup_scale=[2, 2], **STILL)
    sample = mosaic(images[0], scripted(*draws, draw=iter(images[1:]).__next__))
    assert (sample["image"][1:-1, 1:-1] == 150).all()
    # 40, 20, 80, 60 becomes 0, 20, 40, 60 when mirrored, and -10, 0, 30, 40 in the part
    assert sample["gt_bbox"][4].tolist() == [0, 0, 30, 40] and sample["gt_class"][4].tolist() == [200]


def test_boxes_of_the_fifth_image_need_not_be_clipped():
    images = [flat(value) for value in (100, 100, 100, 100, 200)]
    draws = 0.0, 40.0, 40.0, 0, 0.5, 0, 0, 0.0, 2.0, 0.4, 20, 10
    mosaic = Mosaic(input_dim=40, mixup_scale=[2, 2], remove_outside_box=True, **STILL)
    sample = mosaic(images[0], scripted(*draws, draw=iter(images[1:]).__next__))
    assert sample["gt_bbox"][4].tolist() == [-10, -20, 70, 60]


def test_yolox_mosaic_removes_boxes_without_area_unlike_paddledetection():
    first, *others = [flat(value, box=(0, 0, 40, 40)) for value in (1, 2, 3, 4)]
    mosaic = Mosaic(input_dim=40, enable_mixup=False, **{**STILL, "scale": [1, 1]})
    sample = mosaic(first, scripted(0.0, 40.0, 40.0, 0, 1.0, 0, 0, draw=iter(others).__next__))
    assert sample["gt_bbox"].tolist() == [[0, 0, 40, 40]]  # the others are right of and below the 40 x 40 pixels


def test_yolox_mosaic_has_height_and_width_unlike_paddledetection():
    first, *others = [flat(value) for value in (1, 2, 3, 4, 5)]
    assert Mosaic(input_dim=[40, 60])(first, context(others))["image"].shape == (40, 60, 3)


@pytest.mark.parametrize("seed", range(8))
def test_yolox_mosaic_keeps_boxes_on_their_pixels(seed):
    """A bright square in a dark image, four times: the boxes enclose the bright pixels, and all of them."""
    images = []
    for _ in range(4):
        part = flat(0, 60, 80, (20, 20, 50, 40))
        part["image"][20:40, 20:50] = 255
        images.append(part)
    settings = {"degrees": [0, 0], "shear": [0, 0], "translate": [-0.1, 0.1], "scale": [0.4, 1.2]}
    sample = Mosaic(input_dim=96, enable_mixup=False, **settings)(images[0], context(images[1:], seed))
    bright = sample["image"][..., 0] > 180
    for x1, y1, x2, y2 in np.round(sample["gt_bbox"]).astype(int):
        inside = bright[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
        assert inside.size == 0 or inside.mean() > 0.95
        bright[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = False
    assert not bright.any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: JitterCrop(0.5),
        lambda: Mosaic(20, min_offset=0.5),
        lambda: Mosaic("x"),
        lambda: Mosaic(20, input_dim=20),
        lambda: Mosaic(scale=[0, 1]),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(UserError):
        make()
