"""AutoAugment: where boxes and pixels go, by hand. See test_transform_recordings.py for PaddleDetection's results."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, noise_image, sample, scripted

from ppdet_repro.data.transform.autoaugment import POLICIES, AutoAugment, Step
from ppdet_repro.data.transform.autoaugment_ops import OPERATIONS

APPLY, SKIP, POSITIVE, NEGATIVE = 0.5, 0.4, 0.5, 0.4


def run(name, level, boxes, *draws, image=None, prob=0.0):
    """Apply one operation to an image of 128 x 256 pixels, so that pixels are exact fractions."""
    transform = AutoAugment()
    transform.sequences = [[Step(name, prob, level)]]
    given = sample(noise_image(128, 256) if image is None else image, boxes)
    return transform(given, scripted(0, *draws))


def test_every_policy_has_its_number_of_sequences_of_known_operations():
    assert {name: len(sequences) for name, sequences in POLICIES.items()} == {
        "v0": 5,
        "v1": 20,
        "v2": 15,
        "v3": 15,
        "test": 1,
    }
    used = {step.name for sequences in POLICIES.values() for sequence in sequences for step in sequence}
    assert used == set(OPERATIONS)
    assert POLICIES["v3"][0] == [Step("Posterize", 0.8, 2), Step("TranslateX_BBox", 1, 8)]


def test_translation_moves_pixels_and_boxes_and_fills_with_gray():
    image = noise_image(128, 256)
    # level 2: 2 / 10 * 250 = 50 pixels, to the left if the sign is positive
    result = run("TranslateX_BBox", 2, [[60, 10, 90, 40]], APPLY, POSITIVE, image=image)
    assert (result["image"][:, :206] == image[:, 50:]).all() and (result["image"][:, 206:] == 128).all()
    np.testing.assert_allclose(result["gt_bbox"], [[10, 10, 40, 40]], atol=1e-4)
    result = run("TranslateY_BBox", 2, [[60, 10, 90, 40]], APPLY, NEGATIVE, image=image)
    assert (result["image"][50:] == image[:-50]).all() and (result["image"][:50] == 128).all()
    np.testing.assert_allclose(result["gt_bbox"], [[60, 60, 90, 90]], atol=1e-4)


def test_a_box_that_leaves_the_image_becomes_a_strip_as_in_paddledetection():
    # 50 pixels to the left: 60 - 50 and 45 - 50 < 0 give no width, which becomes 5 % of the 256 pixels
    result = run("TranslateX_BBox", 2, [[10, 10, 45, 40]], APPLY, POSITIVE)
    np.testing.assert_allclose(result["gt_bbox"], [[0, 10, 12.8, 40]], atol=1e-4)


def test_shear_moves_the_corners_of_boxes():
    # level 5: x becomes x - 0.15 y. Corners (60, 20), (90, 20), (60, 40), (90, 40): x from 60 - 6 to 90 - 3
    result = run("ShearX_BBox", 5, [[60, 20, 90, 40]], APPLY, POSITIVE)
    np.testing.assert_allclose(result["gt_bbox"], [[54, 20, 87, 40]], atol=1e-4)


def test_rotation_is_around_the_center():
    # level 10, negative: -30 degrees, clockwise in the picture. The box from (128, 54) to (179, 64) has the
    # corners (0, 10), (51, 10), (0, 0), (51, 0) from the center, upward; cos 30 x + sin 30 y: 5, 49.2, 0, 44.2, and
    # cos 30 y - sin 30 x: 8.7, -16.8, 0, -25.5. So x is from 128 + 0 to 128 + 49 and y from 64 - 8 to 64 + 25
    result = run("Rotate_BBox", 10, [[128, 54, 179, 64]], APPLY, NEGATIVE)
    np.testing.assert_allclose(result["gt_bbox"], [[128, 56, 177, 89]], atol=1e-3)


def test_a_change_inside_of_a_box_adds_1_outside_as_in_paddledetection():
    image = noise_image(128, 256)
    image[0, 0] = 255
    # the probability is a third of 1, so that 1 - 1 / 3 = 0.667 is just enough
    result = run("Flip_Only_BBoxes", 10, [[50, 20, 99, 59]], APPLY, 0.67, image=image, prob=1.0)["image"]
    assert (result[20:60, 50:100] == image[20:60, 50:100][:, ::-1]).all()
    assert (result[:20] == image[:20] + np.uint8(1)).all() and (result[0, 0] == 0).all()
    unchanged = run("Flip_Only_BBoxes", 10, [[50, 20, 99, 59]], APPLY, 0.66, image=image, prob=1.0)["image"]
    assert (unchanged == image).all()


@pytest.mark.parametrize(
    "name, level, before, after",
    [
        ("Solarize", 5, 200, 55),  # 200 is not below 128: 255 - 200
        ("Solarize", 10, 200, 200),  # the threshold is 256
        ("SolarizeAdd", 5, 100, 155),  # 100 + 55
        ("SolarizeAdd", 5, 200, 200),
        ("Posterize", 5, 255, 192),  # the upper 2 bits
        ("Posterize", 2, 255, 0),  # int(0.8) = 0 bits
        ("Brightness", 0, 200, 20),  # a factor of 0.1
        ("Brightness", 10, 100, 190),  # of 1.9
        ("Brightness", 10, 200, 255),
        ("AutoContrast", 5, 77, 77),  # one value cannot be stretched
    ],
)
def test_changes_of_values(name, level, before, after):
    result = run(name, level, [[1, 1, 9, 9]], APPLY, image=np.full((20, 20, 3), before, np.uint8))
    assert (result["image"] == after).all()


def test_cutout_covers_a_square_of_gray():
    result = run("Cutout", 1, [[1, 1, 9, 9]], APPLY, 5, 100)["image"]  # 10 pixels around (5, 100)
    assert (result[:15, 90:110] == 128).all() and (result[15] != 128).any() and (result[5, [89, 110]] != 128).any()


def test_the_probabilities_of_a_policy_have_no_effect_as_in_paddledetection():
    image = noise_image(128, 256)
    assert (run("Equalize", 10, [[1, 1, 9, 9]], SKIP, image=image, prob=1.0)["image"] == image).all()
    assert (run("Solarize", 0, [[1, 1, 9, 9]], APPLY, image=image, prob=0.0)["image"] == 255 - image).all()


def test_images_without_boxes_do_not_change():
    given = sample(noise_image(30, 40), [])
    image = given["image"]
    assert AutoAugment("v2")(given, scripted())["image"] is image


def test_a_box_that_reaches_outside_is_changed_where_it_is_inside():
    image = noise_image(128, 256)
    result = run("Flip_Only_BBoxes", 10, [[-10, -5, 49, 59]], APPLY, 0.9, image=image, prob=1.0)["image"]
    assert (result[:60, :50] == image[:60, :50][:, ::-1]).all() and (result[60:] == image[60:] + np.uint8(1)).all()


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_boxes_that_reach_outside_and_small_images_are_no_error(name):
    for height, width in ((40, 60), (1, 50), (3, 2)):
        image = noise_image(height, width)
        boxes = [[-20, -9, 30, 70], [width, height, width + 9, height + 9], [2, 1, 2, 1]]
        relative = (np.array(boxes) / [width, height, width, height]).astype(np.float32)
        for seed in range(6):
            out = OPERATIONS[name](image, relative, 8, 1.0, context(seed).rng)
            assert out[0].shape == image.shape and np.isfinite(out[1]).all()


@pytest.mark.parametrize("kind", ["v0", "v1", "v2", "v3", "test"])
def test_a_seed_gives_one_result_and_the_given_image_is_not_changed(kind):
    image = noise_image(90, 120)
    before = image.copy()
    for seed in range(30):
        first, second = (
            AutoAugment(kind)(sample(image, [[3, 4, 50, 60], [0, 0, 120, 90]]), context(seed)) for _ in range(2)
        )
        assert (first["image"] == second["image"]).all() and (first["gt_bbox"] == second["gt_bbox"]).all()
        x1, y1, x2, y2 = first["gt_bbox"].T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 120.001).all() and (y2 <= 90.001).all()
        assert (x2 > x1).all() and (y2 > y1).all()
        assert first["image"].dtype == np.uint8 and first["image"].shape == image.shape
    assert (image == before).all()
