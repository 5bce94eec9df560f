"""Resizing of images, boxes, and whole batches."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, noise_image, sample

from ppdet_repro.data.transform.decode import DECODER_LIMIT
from ppdet_repro.data.transform.resize import (
    BatchRandomResize,
    RandomResize,
    RandomShortSideResize,
    Resize,
    Size,
    resized_size,
    scale_to_fit,
    short_side_size,
)
from ppdet_repro.utils.errors import UserError


def test_sizes_with_kept_ratio():
    target = Size(800, 1333)
    # min(800/480, 1333/640) = 5/3: 640 * 5/3 = 1066.67
    assert resized_size(Size(480, 640), target, True) == (800, 1067)
    # min(800/300, 1333/900) = 1.4811: 300 * 1.4811 = 444.33
    assert resized_size(Size(300, 900), target, True) == (444, 1333)
    assert resized_size(Size(900, 300), target, True) == (1333, 444)  # the target's order does not matter
    assert resized_size(Size(480, 640), target, False) == target


def test_sizes_by_the_short_side():
    assert short_side_size(Size(30, 40), 60, None) == (60, 80)
    assert short_side_size(Size(40, 30), 60, None) == (80, 60)
    assert short_side_size(Size(30, 41), 25, None) == (25, 34)  # 25 * 41 / 30 = 34.17
    # 60 / 30 * 50 = 100 exceeds 81, and 81 * 30 / 50 = 48.6 is truncated
    assert short_side_size(Size(30, 50), 60, 81) == (48, 81)
    assert short_side_size(Size(30, 50), 30, 50) == (30, 50)
    assert short_side_size(Size(2, 900), 2, 300) == (1, 300)  # at least one pixel


def test_strips_do_not_get_more_pixels_than_an_image_may_have():
    height, width = short_side_size(Size(1, 10_000), 800, None)
    assert height < 800 and 0.5 * DECODER_LIMIT < height * width <= DECODER_LIMIT


def test_the_short_side_is_drawn_from_its_list():
    resize = RandomShortSideResize([20, 30, 50], max_size=80)
    sizes = {resize(sample(noise_image(10, 20)), context(seed))["image"].shape[:2] for seed in range(30)}
    assert sizes == {(20, 40), (30, 60), (40, 80)}
    with pytest.raises(UserError, match="short_side_sizes"):
        RandomShortSideResize([])


def test_resize_scales_and_clips_boxes_and_multiplies_the_scale_factor():
    given = sample(noise_image(20, 40), [[10, 5, 45, 25], [-4, -2, 8, 6]])
    given["scale_factor"] = np.array([2, 3], np.float32)
    out = Resize([40, 20], keep_ratio=False)(given, context())  # y times 2, x times 0.5
    assert out["image"].shape == (40, 20, 3) and out["im_shape"].tolist() == [40, 20]
    assert out["gt_bbox"].tolist() == [[5, 10, 20, 40], [0, 0, 4, 12]]  # 22.5, 50, -2, -4 are outside
    assert out["scale_factor"].tolist() == [4, 1.5]


def test_the_scale_factor_is_multiplied_in_double_precision():
    """NumPy 2 multiplies a float32 by a Python number in single precision, and 35 / 37 would be rounded before."""
    given = sample(noise_image(37, 37))
    given["scale_factor"] = np.array([0.1, 3], np.float32)
    out = Resize([35, 35], keep_ratio=False)(given, context())["scale_factor"]
    assert out.tolist() == [np.float32(float(np.float32(0.1)) * (35 / 37)), np.float32(3 * (35 / 37))]


def test_one_scale_for_both_sides_as_paddledetection_deploys():
    """29 x 50 fits into 40 x 60 with a scale of 60 / 50, as 40 / 29 would make 50 to 68.97. The height becomes 34.8.
    Evaluation rounds it to 35 and scales by 35 / 29, deployment scales by 1.2; the sizes of the images are equal."""
    outs = [Resize([40, 60], True, one_scale=one_scale)(sample(noise_image(29, 50)), context()) for one_scale in (0, 1)]
    assert [out["im_shape"].tolist() for out in outs] == [[35, 60], [35, 60]]
    np.testing.assert_allclose(outs[0]["scale_factor"], [35 / 29, 1.2], rtol=1e-6)
    np.testing.assert_allclose(outs[1]["scale_factor"], [1.2, 1.2], rtol=1e-6)
    assert outs[1]["image"].shape == outs[0]["image"].shape and (outs[1]["image"] != outs[0]["image"]).any()


def test_the_long_side_decides_only_if_it_would_be_too_long_after_rounding():
    assert scale_to_fit(Size(30, 50), Size(36, 60)) == 1.2
    assert scale_to_fit(Size(100, 301), Size(200, 602)) == 2.0
    assert scale_to_fit(Size(100, 300), Size(33, 98)) == 98 / 300  # 99 is more than 98
    assert scale_to_fit(Size(1000, 3001), Size(100, 300)) == 0.1  # 300.1 is 300


@pytest.mark.parametrize("one_scale", [False, True])
@pytest.mark.parametrize("height, width, expected", [(6, 4000, (1, 608)), (4000, 2, (608, 1)), (1, 1, (608, 608))])
def test_a_strip_keeps_at_least_one_pixel_and_does_not_exceed_the_target(one_scale, height, width, expected):
    """The long side of the strips becomes 608, the short side 6 * 608 / 4000 = 0.9 and 2 * 608 / 4000 = 0.3 pixels."""
    given = sample(np.zeros((height, width, 3), np.uint8), [[0, 0, width, height]])
    out = Resize(608, keep_ratio=True, one_scale=one_scale)(given, context())
    assert out["image"].shape[:2] == expected and out["im_shape"].tolist() == list(expected)
    back = out["gt_bbox"] / np.tile(out["scale_factor"][::-1], 2)
    np.testing.assert_allclose(back, [[0, 0, width, height]], rtol=1e-5)


def test_resize_keeps_eight_bits_unlike_paddledetection():
    """PaddleDetection converts to float32 here. The values are the same, and 8-bit images are normalized four times
    faster. Only resizing twice would differ, because of the rounding in between."""
    out = Resize(8, keep_ratio=True)(sample(noise_image(20, 40)), context())
    assert out["image"].dtype == np.uint8


def test_resize_refuses_what_is_no_size_and_no_interpolation():
    with pytest.raises(UserError, match="target_size"):
        Resize([1, 2, 3], keep_ratio=True)
    with pytest.raises(UserError, match="interp 9"):
        Resize(8, keep_ratio=True, interp=9)


def test_random_resize_draws_from_the_list():
    transform = RandomResize([[8, 100], [12, 100]])
    sizes = {transform(sample(noise_image(20, 40)), context(seed))["image"].shape[:2] for seed in range(20)}
    assert sizes == {(8, 16), (12, 24)}


def test_random_resize_draws_the_short_side_from_the_range():
    transform = RandomResize([[8, 100], [12, 100]], random_range=True)
    sizes = {transform(sample(noise_image(20, 40)), context(seed))["image"].shape[0] for seed in range(60)}
    assert sizes == {8, 9, 10, 11, 12}


def test_a_batch_is_resized_to_one_size():
    transform = BatchRandomResize([8, 16, 24], keep_ratio=False, random_interp=True)
    seen = set()
    for seed in range(30):
        batch = transform([sample(noise_image(20, 40)), sample(noise_image(9, 7))], context(seed))
        shapes = {each["image"].shape for each in batch}
        assert len(shapes) == 1
        seen |= shapes
    assert seen == {(8, 8, 3), (16, 16, 3), (24, 24, 3)}


def test_random_sizes_must_be_a_list():
    with pytest.raises(UserError, match="list"):
        BatchRandomResize(320, keep_ratio=False)
    with pytest.raises(UserError, match="list"):
        RandomResize(320)
