"""Normalization, channel order and padding."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, noise_image, sample

from ppdet_repro.data.transform.base import Compose
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.pad import Pad, PadBatch, stack
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.utils.errors import UserError


def test_normalization_by_hand():
    image = np.array([[[255, 0, 51]]], np.uint8)
    out = NormalizeImage()({"image": image}, context())["image"]
    # (1 - .485)/.229 = 2.248908, -.456/.224 = -2.035714, (.2 - .406)/.225 = -.915556
    np.testing.assert_allclose(out[0, 0], [2.248908, -2.035714, -0.915556], atol=1e-6)
    out = NormalizeImage([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], is_scale=False)
    # (255 - 123.675)/58.395 = 2.248909
    assert out({"image": image}, context())["image"][0, 0, 0] == pytest.approx(2.248909, abs=1e-6)
    out = NormalizeImage(norm_type="none")({"image": image}, context())["image"]
    np.testing.assert_allclose(out[0, 0], [1, 0, 0.2], atol=1e-7)


@pytest.mark.parametrize("is_scale", [True, False])
def test_the_table_for_eight_bits_equals_the_arithmetic_bit_for_bit(is_scale):
    image = noise_image(30, 50)
    plain = image.astype(np.float32)
    if is_scale:
        plain *= 1.0 / 255.0
    plain -= np.array([0.485, 0.456, 0.406])  # float64 operands, as in PaddleDetection
    plain /= np.array([0.229, 0.224, 0.225])
    transform = NormalizeImage(is_scale=is_scale)
    for dtype in (np.uint8, np.float32):
        given = image.astype(dtype)
        out = transform({"image": given}, context())["image"]
        np.testing.assert_array_equal(out, plain)
        np.testing.assert_array_equal(given, image)  # the caller's array does not change
        assert out.dtype == np.float32 and out.transpose(2, 0, 1).flags.c_contiguous


def test_normalization_wants_one_value_a_channel():
    with pytest.raises(UserError, match="one value per channel"):
        NormalizeImage(mean=[0.5], std=[0.1, 0.1])
    with pytest.raises(UserError, match="std must not be 0"):
        NormalizeImage(std=[0.1, 0, 0.1])


def test_permute_puts_channels_first():
    image = noise_image(4, 5)
    np.testing.assert_array_equal(Permute()({"image": image}, context())["image"][1], image[..., 1])


def test_a_letterbox_is_a_resize_and_a_pad():
    """20 x 40 fits into 32 x 32 as 16 x 32; the other 16 rows are gray, and boxes are clipped to the 16 rows."""
    given = sample(noise_image(20, 40), [[0, 0, 40, 20]])
    out = Compose([Resize([32, 32], keep_ratio=True), Pad(32, [128, 127, 126])])(given, context())
    assert out["image"].shape == (32, 32, 3) and out["image"].dtype == np.uint8
    assert (out["image"][16:] == [128, 127, 126]).all() and out["image"][:16].std() > 20
    assert out["gt_bbox"].tolist() == [[0, 0, 32, 16]] and out["im_shape"].tolist() == [16, 32]
    with pytest.raises(UserError, match=r"Pad: image .* is 20 x 40, more than 32 x 32; put a Resize"):
        Pad(32)(sample(noise_image(20, 40)), context())


def test_pad_batch_fills_the_bottom_and_the_right_with_zeros():
    images = [np.full((3, 5, 4), 1, np.float32), np.full((3, 2, 7), 2, np.float32)]
    out = PadBatch(4)([{"image": image} for image in images], context())
    for each, image in zip(out, images):  # 5 -> 8 rows, 7 -> 8 columns
        assert each["image"].shape == (3, 8, 8)
        _, h, w = image.shape
        np.testing.assert_array_equal(each["image"][:, :h, :w], image)
        assert each["image"].sum() == image.sum()


def test_pad_batch_without_stride_pads_to_the_largest():
    out = PadBatch()([{"image": np.ones((3, 5, 4))}, {"image": np.ones((3, 2, 7))}], context())
    assert {each["image"].shape for each in out} == {(3, 5, 7)}


def test_the_rows_of_one_array_are_stacked_without_a_copy():
    whole = np.random.default_rng(0).normal(size=(2, 3, 3))
    assert stack(list(whole)) is whole
    first, second = whole
    for rows in ([second, first], [first], [first, first], list(whole[:, ::-1]), [first.T, second.T]):
        out = stack(rows)
        assert out is not whole
        np.testing.assert_array_equal(out, np.array(rows))
