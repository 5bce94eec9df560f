"""Cutout, GridMask and random erasing."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import Scripted, context, sample, scripted

from ppdet_repro.data.transform.erase import Cutout, GridMask, RandomErasingImage, stripes
from ppdet_repro.utils.errors import UserError


def test_cutout_covers_a_square_of_the_mean_color_clipped_at_the_border():
    image = np.zeros((8, 12, 3), np.uint8)
    out = Cutout(size=0.5, fill_value=[9, 9, 9])(sample(image), scripted(0.0, 1, 6))  # 4 x 4 at y -1, x 4
    expected = np.zeros((8, 12))
    expected[0:3, 4:8] = 9
    np.testing.assert_array_equal(out["image"][..., 0], expected)
    assert not image.any() and len(out["gt_bbox"]) == 1


def test_grid_stripes_by_hand():
    # two whole periods of 4 in 11, stripes of 2 from 1 on; the rest at the end stays free
    assert "".join("#" if x else "." for x in stripes(11, 4, 2, 1)) == ".##..##...."


def test_grid_mask_by_hand():
    transform = GridMask(prob=1.0, mode=0)
    # 4 x 4: a mask of 6 x 6, period 3, stripes of int(3*.5 + .5) = 2 from row 0 and column 1 on, cut at 1
    keep = transform.mask(4, 4, Scripted(3, (0, 1), 0))
    rows, columns = "##.##."[1:5], ".##.##"[1:5]
    expected = [[r == "." and c == "." for c in columns] for r in rows]
    assert keep.tolist() == expected
    assert (GridMask(mode=1).mask(4, 4, Scripted(3, (0, 1), 0)) == ~keep).all()


def test_grid_masks_probability_grows_with_training_not_with_a_workers_counter():
    """In PaddleDetection, it grows with the number of samples that one worker has drawn, up to `upper_iter`."""
    transform = GridMask(prob=0.8, upper_iter=1)
    hidden = {}
    for progress in (0.0, 0.5, 1.0):
        given = sample(np.ones((16, 16, 3), np.float32))
        hidden[progress] = sum(
            not transform(dict(given), context(seed, progress=progress))["image"].all() for seed in range(200)
        )
    assert hidden[0.0] == 0
    assert 55 <= hidden[0.5] <= 105 and 135 <= hidden[1.0] <= 185  # 0.4 and 0.8 of 200


def test_grid_mask_can_put_noise_where_it_hides():
    out = GridMask(prob=1.0, offset=True)(sample(np.full((16, 16, 3), 5, np.float32)), context(progress=1.0))
    values = out["image"][out["image"] != 5]
    assert len(values) and (np.abs(values) <= 1).all()


def test_a_rectangle_in_each_box_is_erased():
    # the box has 20 x 30 = 600 pixels; 0.3 of it is 180, with height over width 0.8: 12 high, 15 wide; at y + 4, x + 7
    image = np.full((60, 60, 3), 9, np.uint8)
    out = RandomErasingImage(prob=0.5)(sample(image, [[10, 20, 40, 40]]), scripted(0.4, 0.3, 0.8, 4, 7))["image"]
    erased = np.zeros((60, 60), bool)
    erased[24:36, 17:32] = True
    assert ((out == 0).all(axis=-1) == erased).all() and (image == 9).all()


def test_the_part_of_a_rectangle_outside_the_image_is_left_out():
    # 20 x 30 pixels at y -10 to 10 and x -5 to 25: the rectangle of 12 x 15 at y -8, x -3
    image = np.full((60, 60, 3), 9, np.uint8)
    out = RandomErasingImage(prob=0.5)(sample(image, [[-5, -10, 25, 10]]), scripted(0.4, 0.3, 0.8, 2, 2))["image"]
    erased = np.zeros((60, 60), bool)
    erased[:4, :12] = True
    assert ((out == 0).all(axis=-1) == erased).all()


def test_boxes_are_not_erased_without_luck_or_room():
    image = np.full((60, 60, 3), 9, np.uint8)
    box = [[10, 20, 40, 40]]
    assert (RandomErasingImage(prob=0.5)(sample(image, box), scripted(0.5))["image"] == 9).all()
    # 0.4 * 600 = 240 pixels with a ratio of 3: 27 high, more than the box
    assert (RandomErasingImage(prob=0.5)(sample(image, box), scripted(0.1, 0.4, 3.0))["image"] == 9).all()
    assert (RandomErasingImage(prob=1.0)(sample(image, []), scripted())["image"] == 9).all()
    with pytest.raises(UserError, match="aspect_ratio"):
        RandomErasingImage(aspect_ratio=0)
