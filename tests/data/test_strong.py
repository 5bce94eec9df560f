"""Strong augmentations by hand. See test_transform_recordings.py for PaddleDetection's results."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, noise_image, sample, scripted

from ppdet_repro.data.transform.strong import (
    RandomColorJitter,
    RandomErasingCrop,
    RandomGaussianBlur,
    RandomGrayscale,
    StrongAugImage,
)
from ppdet_repro.utils.errors import UserError


def flat(value):
    return sample(np.full((10, 12, 3), value, np.uint8))


def test_color_changes_in_the_drawn_order():
    settings = {"saturation": 0, "hue": 0}
    # brightness 1.4: 100 * 1.4 = 140; contrast 1.2: (140 - 74) * 1.2 + 74 = 153.2
    out = RandomColorJitter(**settings)(flat(100), scripted(0.1, [0, 1, 2, 3], 1.4, 1.2))
    assert (out["image"] == 153).all() and out["image"].dtype == np.float32
    # the other way round: (100 - 74) * 1.2 + 74 = 105.2, truncated; 105 * 1.4 = 147
    out = RandomColorJitter(**settings)(flat(100), scripted(0.1, [1, 0, 2, 3], 1.2, 1.4))
    assert (out["image"] == 147).all()


def test_a_gray_image_has_no_saturation_or_hue_to_change():
    out = RandomColorJitter(brightness=0, contrast=0)(flat(100), context(3))
    assert (out["image"] == 100).all()


def test_gray_has_the_weights_of_rgb():
    given = sample(np.full((4, 4, 3), (200, 0, 0), np.uint8))
    assert (RandomGrayscale(1.0)(given, scripted(0.0))["image"] == 60).all()  # 0.299 * 200 = 59.8


def test_blur_keeps_flat_images():
    out = RandomGaussianBlur(1.0)(flat(77), scripted(0.0, 2.0))
    assert (out["image"] == 77).all()


def test_erased_rectangles_have_the_drawn_area():
    # the first rectangle: 0.1 of 100 x 100 = 1000 pixels, height over width exp(0) = 1: 31.6 rounds to 32
    noise = np.full((32, 32, 3), 1.01)  # times 255 is 257.55, which is 1 modulo 256
    image = noise_image(100, 100)
    image[image == 1] = 2
    out = RandomErasingCrop()(sample(image), scripted(0.6, 0.1, 0.0, noise, 20, 30, 0.5, 0.3))["image"]
    assert (out[20:52, 30:62] == 1).all() and (out == 1).all(axis=-1).sum() == 32 * 32


def test_rectangles_that_do_not_fit_are_left_out():
    image = noise_image(100, 10)  # 0.2 * 1000 = 200 pixels, with a ratio of 0.3: 26 pixels wide
    out = RandomErasingCrop()(sample(image), scripted(0.6, 0.2, np.log(0.3), 0.5, 0.3))["image"]
    assert (out == image).all()


def test_strong_augmentation_is_8_bit_and_keeps_boxes():
    given = sample(noise_image(40, 50).astype(np.float32))
    boxes = given["gt_bbox"].copy()
    transforms = [RandomColorJitter(1.0), RandomGrayscale(1.0), RandomGaussianBlur(1.0), RandomErasingCrop()]
    out = StrongAugImage(transforms)(given, context(1))
    assert out["image"].dtype == np.uint8 and out["image"].shape == (40, 50, 3)
    assert (out["gt_bbox"] == boxes).all()


@pytest.mark.parametrize("make", [lambda: RandomColorJitter(hue=0.6), lambda: RandomGaussianBlur(sigma=[0, 1])])
def test_impossible_settings_are_refused(make):
    with pytest.raises(UserError):
        make()
