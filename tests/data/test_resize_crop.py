"""Crops of a given size, and the random choice between transforms, by hand."""

from __future__ import annotations

import pytest
from transform_samples import context, noise_image, sample, scripted

from ppdet_repro.core.config import build, load_config
from ppdet_repro.data.transform.choose import RandomSelect
from ppdet_repro.data.transform.geometry import RandomFlip
from ppdet_repro.data.transform.pad import PadBatch
from ppdet_repro.data.transform.resize import RandomShortSideResize
from ppdet_repro.data.transform.resize_crop import RandomResizeCrop, RandomSizeCrop
from ppdet_repro.utils.errors import UserError


def test_a_resized_crop_covers_or_fits_the_size():
    crop = {"cropsizes": [[10, 10]], "thresholds": [0.0], "prob": 1.0}
    # 20 x 40 to 40 x 60: the scales are 40 / 20 = 2 and 60 / 40 = 1.5, and the larger one covers
    draws = 0.0, 0, 0, [0], 10, 10, 4, 6
    given = sample(noise_image(20, 40), [[2, 2, 6, 6]])
    out = RandomResizeCrop([[40, 60]], mode="short", **crop)(given, scripted(*draws))
    assert out["scale_factor"].tolist() == [2, 2] and out["image"].shape == (10, 10, 3)
    assert out["im_shape"].tolist() == [10, 10]
    # the box is 4, 4, 12, 12 after resizing, and its center (8, 8) in the crop 6..16 x 4..14
    assert out["gt_bbox"].tolist() == [[0, 0, 6, 8]]
    given = sample(noise_image(20, 40), [[2, 2, 6, 6]])
    out = RandomResizeCrop([[40, 60]], mode="long", **crop)(given, scripted(0.0, 0, 0, [0], 10, 10, 0, 0))
    assert out["scale_factor"].tolist() == [1.5, 1.5]


def test_without_a_crop_that_keeps_enough_the_image_is_only_resized():
    transform = RandomResizeCrop([20], [[5, 5]], prob=1.0, thresholds=[0.9], num_attempts=2)
    out = transform(sample(noise_image(20, 20), [[0, 0, 20, 20]]), context())
    assert out["image"].shape == (20, 20, 3) and out["gt_bbox"].tolist() == [[0, 0, 20, 20]]


def test_the_overlap_may_be_that_of_the_box_which_paddledetection_ignores():
    # the crop of 5 x 5 covers 1 / 16 of the union with a box of 20 x 20, but all of a box of 5 x 5 inside
    settings = {"prob": 1.0, "thresholds": [0.9], "num_attempts": 1}
    draws = 0.0, 0, 0, [0], 10, 10, 0, 0
    given = [sample(noise_image(20, 20), [[1, 1, 6, 6]]) for _ in range(2)]
    sizes = [
        RandomResizeCrop([20], [[10, 10]], ioumode=mode, **settings)(one, scripted(*draws))["image"].shape[0]
        for mode, one in zip(("iou", "iof"), given)
    ]
    assert sizes == [20, 10]


def test_small_images_are_not_cropped_larger_than_they_are():
    out = RandomResizeCrop([8], [[10, 20]], prob=1.0, thresholds=[0.0])(sample(noise_image(8, 8)), context())
    assert out["image"].shape == (8, 8, 3)


def test_a_size_crop_cuts_boxes_and_removes_those_outside():
    given = sample(noise_image(40, 40), [[0, 0, 12, 12], [30, 30, 40, 40]])
    image = given["image"]
    out = RandomSizeCrop(10, 20)(given, scripted(20, 15, 3, 5))  # h, w, y, x
    assert (out["image"] == image[3:23, 5:20]).all() and out["im_shape"].tolist() == [20, 15]
    assert out["gt_bbox"].tolist() == [[0, 0, 7, 9]] and out["gt_class"].tolist() == [[0]]


def test_a_size_crop_without_boxes_can_be_refused():
    for keep, size in ((True, 10), (False, 40)):
        given = sample(noise_image(40, 40), [[30, 30, 40, 40]])
        assert RandomSizeCrop(10, 10, keep_empty=keep)(given, scripted(10, 10, 0, 0))["image"].shape[0] == size


def test_the_last_place_of_a_size_crop_is_inside_unlike_in_paddledetection():
    shapes = {RandomSizeCrop(9, 9)(sample(noise_image(10, 10)), context(seed))["image"].shape for seed in range(30)}
    assert shapes == {(9, 9, 3)}


def test_one_of_two_lists_is_applied():
    select = RandomSelect([RandomFlip(1.0)], [], p=0.3)
    image = noise_image(4, 6)
    assert (select(sample(image), scripted(0.29, 0.0))["image"] == image[:, ::-1]).all()
    assert (select(sample(image), scripted(0.3))["image"] == image).all()


def test_a_choice_in_yaml_with_paddledetections_keys(tmp_path):
    text = """
    TrainReader:
      sample_transforms:
      - RandomSelect:
          transforms1: [{RandomShortSideResize: {short_side_sizes: [8, 10], max_size: 30}}]
          transforms2:
          - RandomShortSideResize: {short_side_sizes: [20]}
          - RandomSizeCrop: {min_size: 6, max_size: 12}
          p: 0.25
    epoch: 1
    """
    (tmp_path / "a.yml").write_text(text)
    (select,) = build(load_config(tmp_path / "a.yml"), "TrainReader").sample_transforms
    assert select.p == 0.25 and isinstance(select.first.transforms[0], RandomShortSideResize)
    sides = {min(select(sample(noise_image(20, 20)), context(seed))["image"].shape[:2]) for seed in range(40)}
    assert sides <= {6, 7, 8, 9, 10, 11, 12} and len(sides) > 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomSelect([PadBatch()], []),
        lambda: RandomSizeCrop(10, 5),
        lambda: RandomResizeCrop([], [[1, 2]]),
        lambda: RandomResizeCrop([10], [[0, 2]]),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(UserError):
        make()
