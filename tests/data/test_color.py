"""Color augmentations."""

from __future__ import annotations

import numpy as np
from PIL import Image
from transform_samples import context, noise_image, sample

from ppdet_repro.data.transform import color
from ppdet_repro.data.transform.color import RandomDistort


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
