"""Color augmentations."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transform_samples import context, noise_image, sample, scripted

from ppdet_repro.data.transform import color
from ppdet_repro.data.transform.color import RandomDistort
from ppdet_repro.data.transform.hsv import AugmentHSV, PhotoMetricDistortion
from ppdet_repro.utils.errors import UserError


def test_color_changes_by_hand():
    image = Image.fromarray(np.array([[[100, 50, 200], [0, 0, 0]]], np.uint8))
    assert np.asarray(color.scale_brightness(image, 1.5))[0, 0].tolist() == [150, 75, 255]
    assert np.asarray(color.scale_brightness(image, -3))[0, 0].tolist() == [0, 0, 0]
    # gray of the first pixel: .299*100 + .587*50 + .114*200 = 82; gray + .5*(value - gray)
    assert np.asarray(color.scale_saturation(image, 0.5))[0, 0].tolist() == [91, 66, 141]
    # mean gray 41: 41 + .5 * (value - 41)
    assert np.asarray(color.scale_contrast(image, 0.5))[0, 1].tolist() == [20, 20, 20]


def test_the_circle_of_hues_is_closed():
    red = Image.new("RGB", (1, 1), (255, 0, 0))  # hue 0
    shifted = np.asarray(color.shift_hue(red, -10.7).convert("HSV"))[0, 0]
    assert shifted[0] in (245, 246)  # 0 - 10 (truncated) = 246; the conversion to RGB and back may subtract one
    np.testing.assert_array_equal(np.asarray(color.shift_hue(red, 0.9)), np.asarray(red))


def test_distortion_in_fixed_order_can_permute_channels():
    image = np.zeros((2, 2, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    never = [0.5, 1.5, 1.0]
    transform = RandomDistort([0, 0, 1.0], never, never, never, random_apply=False, random_channel=True)
    seen = {tuple(transform(sample(image), context(seed))["image"][0, 0]) for seed in range(60)}
    assert len(seen) == 6 and all(sorted(channels) == [10, 20, 30] for channels in seen)


def test_distortion_gives_floats_and_leaves_the_given_image():
    image = noise_image(8, 8)
    before = image.copy()
    for random_apply in (True, False):
        out = RandomDistort(random_apply=random_apply)(sample(image), context(3))["image"]
        assert out.dtype == np.float32 and out.shape == image.shape and (out != image).any()
    np.testing.assert_array_equal(image, before)


def test_photometric_distortion_by_hand():
    # gray 100: + 20, times 1.5 early, saturation times 2 and hue + 10 change nothing in gray, channels swapped
    given = sample(np.full((2, 3, 3), 100, np.uint8))
    out = PhotoMetricDistortion()(given, scripted(1, 20.0, 1, 1, 1.5, 1, 2.0, 1, 10.0, 1, [2, 0, 1]))
    np.testing.assert_allclose(out["image"], 180, rtol=1e-6)
    # late: hue turned by 120 degrees exchanges the colors of (200, 0, 0), then times 0.5. As the image is taken for
    # BGR, 120 degrees more than those of blue, 240, are red, the last channel
    given = sample(np.full((2, 3, 3), (200, 0, 0), np.uint8))
    out = PhotoMetricDistortion()(given, scripted(0, 0, 0, 1, 120.0, 1, 0.5, 0))
    np.testing.assert_allclose(out["image"][0, 0], [0, 0, 100], atol=1e-3)


def test_nothing_is_clipped_by_photometric_distortion():
    given = sample(np.full((2, 3, 3), 250, np.uint8))
    out = PhotoMetricDistortion()(given, scripted(1, 20.0, 1, 0, 0, 0, 0))
    np.testing.assert_allclose(out["image"], 270)


def test_hsv_factors_and_amounts_by_hand():
    # value 100 times 1 + 0.8 * 0.5 = 1.4
    out = AugmentHSV()(sample(np.full((2, 3, 3), 100, np.uint8)), scripted(0.0, 0.8))
    assert (out["image"] == 140).all() and out["image"].dtype == np.float32
    # red has the hue 0 of 180 in RGB, and 60 more are green; the value loses 40; the saturation stays, as its coin is 0
    red = sample(np.full((2, 3, 3), (200, 0, 0), np.uint8))
    transform = AugmentHSV(is_bgr=False, hgain=60, sgain=50, vgain=80)
    out = transform(red, scripted([1.0, -1.0, -0.5], [1, 0, 1]))
    assert out["image"][0, 0].tolist() == [0, 160, 0]


def test_incomplete_settings_are_refused():
    with pytest.raises(UserError, match="hgain"):
        AugmentHSV(hgain=5)
    with pytest.raises(UserError, match="contrast_range"):
        PhotoMetricDistortion(contrast_range=[1])
