"""Training targets of YOLO and TTF heads, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ppdet_repro.data.transform.base import Compose, Context
from ppdet_repro.data.transform.boxes import BboxXYXY2XYWH, NormalizeBox
from ppdet_repro.data.transform.geometry import RandomFlip
from ppdet_repro.data.transform.mix import Mixup
from ppdet_repro.data.transform.mosaic import JitterCrop
from ppdet_repro.data.transform.normalize import Permute
from ppdet_repro.data.transform.pad import Pad
from ppdet_repro.data.transform.targets_ttf import Gt2TTFTarget, gaussian, ttf_target
from ppdet_repro.data.transform.targets_yolo import Gt2YoloTarget, yolo_target
from ppdet_repro.utils.boxes import shape_iou
from ppdet_repro.utils.errors import UserError

CTX = Context(np.random.default_rng(0))

# ---------------------------------------------------------------- YOLO: 64 x 64 input, strides 32 and 16

ANCHORS = np.array([[8, 8], [16, 8], [32, 32], [48, 64]], np.float64)
COARSE, FINE = [2, 3], [0, 1]
BOXES = {
    "gt_bbox": np.array([[16, 16, 24, 24], [8, 2, 56, 62], [0, 0, 0, 0]], np.float32),
    "gt_cxcywh_relative": np.array([[20, 20, 8, 8], [32, 32, 48, 60], [0, 0, 0, 0]], np.float32) / 64,
}


def target(boxes, classes=None, scores=None, mask=FINE, stride=16, **options):
    """boxes [cx, cy, w, h] in pixels of 64 x 64, three classes."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4) / 64
    classes = np.array(classes or [0] * len(boxes), np.int32)
    scores = np.array(scores or [1] * len(boxes), np.float32)
    return yolo_target(boxes, classes, scores, (64, 64), ANCHORS, mask, stride, 3, **options)


def test_yolo_target_of_one_box_by_hand():
    out = target([[20, 40, 12, 10]], [2], [0.75])
    assert out.shape == (2, 9, 4, 4) and out.dtype == np.float32
    # best anchor 16x8: 12*8 / (120 + 128 - 96) = .63, against 8x8: 64/120 = .53
    # center 20/16 = 1.25 -> column 1, .25; 40/16 = 2.5 -> row 2, .5
    expected = [0.25, 0.5, np.log(12 / 16), np.log(10 / 8), 2 - 120 / 4096, 0.75, 0, 0, 1]
    np.testing.assert_allclose(out[1, :, 2, 1], expected, rtol=1e-6)
    out[1, :, 2, 1] = 0
    assert not out.any()
    assert not target([[20, 40, 12, 10]], mask=COARSE, stride=32).any()  # another level's anchor


def test_no_boxes_and_padding_give_no_targets():
    assert not target([]).any()
    assert not target([[0, 0, 0, 0], [20, 20, 0, 8], [20, 20, 8, 0]]).any()
    assert not target([[20, 20, 8, 8]], scores=[0]).any()


def test_a_center_on_a_cells_edge_belongs_to_the_cell_that_it_opens():
    out = target([[32, 16, 8, 8]])  # 32/16 = 2 and 16/16 = 1 exactly
    assert np.argwhere(out[0, 5]).tolist() == [[1, 2]]
    assert out[0, :2, 1, 2].tolist() == [0, 0]


def test_a_center_on_the_far_border_belongs_to_the_last_cell():
    """PaddleDetection fails with an index error here."""
    out = target([[64, 64, 8, 8]])
    assert np.argwhere(out[0, 5]).tolist() == [[3, 3]]
    assert out[0, :2, 3, 3].tolist() == [1, 1]


def test_two_boxes_in_one_cell_the_later_wins_but_classes_add_up():
    out = target([[20, 20, 8, 8], [24, 22, 7, 7]], [0, 2], [1, 0.5])
    cell = out[0, :, 1, 1]
    np.testing.assert_allclose(cell[:2], [24 / 16 - 1, 22 / 16 - 1])
    assert cell[5] == 0.5
    assert cell[6:].tolist() == [1, 0, 1]


def test_two_boxes_in_one_cell_with_different_shapes_keep_their_own_anchors():
    out = target([[20, 20, 8, 8], [20, 20, 16, 8]])
    assert out[:, 5, 1, 1].tolist() == [1, 1]


def test_a_box_between_two_anchors_takes_the_first():
    anchors = np.array([[8, 16], [16, 8]], np.float64)
    boxes = np.array([[0.5, 0.5, 12 / 64, 12 / 64]], np.float32)
    out = yolo_target(boxes, np.array([0]), np.ones(1), (64, 64), anchors, [0, 1], 16, 3)
    assert out[:, 5, 2, 2].tolist() == [1, 0]


def test_anchors_over_the_iou_threshold_take_the_box_where_nothing_is_yet():
    # 16x8 belongs to anchor 1; anchor 0 (8x8) has IoU .5
    assert target([[20, 20, 16, 8]], iou_thresh=0.49)[:, 5, 1, 1].tolist() == [1, 1]
    assert target([[20, 20, 16, 8]], iou_thresh=0.5)[:, 5, 1, 1].tolist() == [0, 1]
    both = target([[22, 20, 8, 8], [20, 20, 16, 8]], scores=[0.9, 1], iou_thresh=0.49)
    assert both[0, 5, 1, 1] == np.float32(0.9)  # the second does not push the first out
    # anchor 0's log ratios for the wide box: log(16/8), log(8/8)
    np.testing.assert_allclose(target([[20, 20, 16, 8]], iou_thresh=0.4)[0, 2:4, 1, 1], [np.log(2), 0])


def test_more_than_a_hundred_boxes():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 64, (150, 2)), rng.uniform(4, 60, (150, 2))], axis=1)
    levels = [target(boxes, mask=COARSE, stride=32), target(boxes)]
    owners = shape_iou(boxes[:, 2:], ANCHORS).argmax(axis=1)
    strides = np.where(owners > 1, 32, 16)
    places = {(a, int(y) // s, int(x) // s) for a, s, (x, y, *_) in zip(owners, strides, boxes)}
    assert sum(int((level[:, 5] == 1).sum()) for level in levels) == len(places)


def test_levels_and_anchors_must_agree():
    with pytest.raises(UserError, match="one of each per level"):
        Gt2YoloTarget(ANCHORS, [COARSE, FINE], [32])
    with pytest.raises(UserError, match=r"name anchors \[4\]"):
        Gt2YoloTarget(ANCHORS, [[3, 4], FINE], [32, 16])


def test_the_yolo_transform_makes_one_target_a_level_from_padded_boxes():
    transform = Gt2YoloTarget(ANCHORS.tolist(), [COARSE, FINE], [32, 16], num_classes=3)
    samples = [
        {**BOXES, "image": np.zeros((3, 64, 64)), "gt_class": np.array([1, 2, 0]), **score}
        for score in ({}, {"gt_score": np.array([0.25, 1, 0], np.float32)})
    ]
    first, second = transform(samples, CTX)
    assert first["target0"].shape == (2, 9, 2, 2) and first["target1"].shape == (2, 9, 4, 4)
    assert first["target1"][0, 5:, 1, 1].tolist() == [1, 0, 1, 0]
    assert first["target0"][1, 5:, 1, 1].tolist() == [1, 0, 0, 1]
    assert second["target1"][0, 5, 1, 1] == 0.25
    assert set(first) == {"image", "gt_bbox", "gt_cxcywh_relative", "target0", "target1"}  # losses need the boxes


@pytest.mark.parametrize("change", [RandomFlip(1.0), Pad([80, 80]), JitterCrop(), Mixup()])
def test_boxes_that_were_normalized_too_early_are_refused(change):
    """A transform that moves boxes within the image, or pads it, makes relative boxes out of date."""
    transform = Gt2YoloTarget(ANCHORS.tolist(), [COARSE, FINE], [32, 16], num_classes=3)

    def sample(side=64):
        boxes, classes = np.array([[16, 16, 24, 24]], np.float32), np.array([[1]])
        return {"image": np.ones((side, side, 3), np.uint8), "gt_bbox": boxes, "gt_class": classes}

    ctx = Context(np.random.default_rng(0), draw=lambda: NormalizeBox()(sample(96), CTX))
    late = Compose([change, NormalizeBox(), BboxXYXY2XYWH(), Permute()])(sample(), Context(np.random.default_rng(0)))
    assert transform([late], CTX)[0]["target1"].any()
    early = Compose([NormalizeBox(), change, BboxXYXY2XYWH(), Permute()])(sample(), ctx)
    with pytest.raises(UserError, match=r"does not fit gt_bbox; put NormalizeBox and BboxXYXY2XYWH behind all"):
        transform([early], CTX)


def test_targets_need_relative_boxes():
    transform = Gt2YoloTarget(ANCHORS.tolist(), [COARSE, FINE], [32, 16], num_classes=3)
    sample = {"image": np.zeros((3, 64, 64)), "gt_bbox": BOXES["gt_bbox"], "gt_class": np.array([1, 2, 0])}
    with pytest.raises(UserError, match="has no gt_cxcywh_relative; put NormalizeBox and BboxXYXY2XYWH"):
        transform([sample], CTX)


# ---------------------------------------------------------------- TTF: maps of a quarter of the input


def ttf(boxes, classes=None, size=(64, 64)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return ttf_target(boxes, np.array(classes or [0] * len(boxes)), size, num_classes=2)


def test_the_gaussian_has_a_sixth_of_its_side_as_sigma():
    bell = gaussian(radius_x=2, radius_y=1)
    assert bell.shape == (3, 5) and bell[1, 2] == 1
    # x: sigma 5/6, exp(-1 / (2 * 25/36)) = exp(-.72); y: sigma 1/2, exp(-2)
    np.testing.assert_allclose(bell[1], np.exp([-2.88, -0.72, 0, -0.72, -2.88]), rtol=1e-6)
    np.testing.assert_allclose(bell[:, 2], np.exp([-2, 0, -2]), rtol=1e-6)
    np.testing.assert_allclose(bell[0, 0], np.exp(-2 - 2.88), rtol=1e-6)


def test_ttf_target_of_one_box_by_hand():
    # 40 x 32 px = 10 x 8 cells: radii int(10/2*.54) = 2 and int(8/2*.54) = 2; center (34/4, 30/4) = (8, 7)
    heatmap, box, weight = ttf([[14, 14, 54, 46]], [1])
    assert heatmap.shape == (2, 16, 16) and box.shape == (4, 16, 16) and weight.shape == (1, 16, 16)
    assert not heatmap[0].any()
    bell = gaussian(2, 2)
    np.testing.assert_allclose(heatmap[1, 5:10, 6:11], bell)
    assert heatmap[1].sum() == pytest.approx(bell.sum())
    assert (box[:, 5:10, 6:11] == np.array([14, 14, 54, 46])[:, None, None]).all()
    assert (box == -1).sum() == 4 * (16 * 16 - 25)
    np.testing.assert_allclose(weight[0, 5:10, 6:11], bell / bell.sum() * np.log(41 * 33), rtol=1e-6)
    assert weight.sum() == pytest.approx(np.log(41 * 33), rel=1e-6)


def test_no_boxes_give_an_empty_map():
    heatmap, box, weight = ttf([])
    assert not heatmap.any() and (box == -1).all() and not weight.any()


def test_a_tiny_object_is_one_cell():
    # 5 px = 1.25 cells: radius int(1.25/2*.54) = 0; center (22.5/4) = 5
    heatmap, box, weight = ttf([[20, 20, 25, 25]])
    assert np.argwhere(heatmap[0]).tolist() == [[5, 5]] and heatmap[0, 5, 5] == 1
    assert weight[0, 5, 5] == pytest.approx(np.log(36), rel=1e-6)
    assert box[:, 5, 5].tolist() == [20, 20, 25, 25]


def test_at_the_border_the_gaussian_is_cut_and_its_visible_part_shares_the_weight():
    # 40 px at the left: center (0 + 40)/2/4 = (5, 5), radius int(10/2*.54) = 2: inside. A box that the
    # image cuts to 8 px: center (1, 5), radii int(2/2*.54) = 0 and 2
    heatmap, _, weight = ttf([[0, 0, 8, 40]])
    assert np.argwhere(heatmap[0]).tolist() == [[y, 1] for y in range(3, 8)]
    assert weight.sum() == pytest.approx(np.log(9 * 41), rel=1e-6)
    # reaching beyond the map: 40 px box around (62, 32): sides in cells min(82/4, 15) - 42/4 = 4.5 and 10,
    # radii int(4.5/2*.54) = 1 and 2, center (15, 8): columns 14 and 15, the third would be 16
    heatmap, _, weight = ttf([[42, 12, 82, 52]])
    assert np.flatnonzero(heatmap[0].any(axis=0)).tolist() == [14, 15]
    assert np.flatnonzero(heatmap[0].any(axis=1)).tolist() == [6, 7, 8, 9, 10]
    visible = gaussian(1, 2)[:, :2]
    np.testing.assert_allclose(weight[0, 6:11, 14:], visible / visible.sum() * np.log(41 * 41), rtol=1e-6)


def test_a_box_without_area_on_the_far_border_is_left_out():
    heatmap, box, weight = ttf([[64, 10, 64, 30]])  # center cell 16 of 0..15
    assert not heatmap.any() and (box == -1).all() and not weight.any()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_of_overlapping_objects_the_smaller_is_drawn_last(order):
    large, small = [4, 4, 60, 60], [20, 20, 44, 44]  # radii 3 and 1, both around (8, 8)
    boxes = [[large, small][i] for i in order]
    heatmap, box, weight = ttf(boxes)
    np.testing.assert_allclose(heatmap[0, 5:12, 5:12], gaussian(3, 3))  # one class: the larger value stays
    assert box[:, 8, 8].tolist() == small and box[:, 7, 9].tolist() == small
    assert box[:, 6, 8].tolist() == large
    wide, narrow = gaussian(3, 3), gaussian(1, 1)
    # the large one's weights are divided by its whole sum, before the small one covers its middle
    assert weight[0, 5, 8] == pytest.approx(wide[0, 3] / wide.sum() * np.log(57 * 57), rel=1e-6)
    assert weight[0, 8, 8] == pytest.approx(1 / narrow.sum() * np.log(25 * 25), rel=1e-6)


def test_of_equally_large_objects_the_first_is_drawn_last():
    _, box, _ = ttf([[20, 20, 40, 40], [22, 20, 42, 40]])
    assert box[:, 7, 7].tolist() == [20, 20, 40, 40]


def test_overlapping_objects_of_two_classes_have_maps_of_their_own():
    heatmap, _, _ = ttf([[4, 4, 60, 60], [20, 20, 44, 44]], [0, 1])
    np.testing.assert_allclose(heatmap[0, 5:12, 5:12], gaussian(3, 3))
    np.testing.assert_allclose(heatmap[1, 7:10, 7:10], gaussian(1, 1))


def test_the_map_of_a_wide_image_is_wide():
    """PaddleDetection takes the height for both sides, so that its inputs must be square."""
    heatmap, _, _ = ttf([[100, 20, 120, 40]], size=(64, 128))
    assert heatmap.shape == (2, 16, 32) and heatmap[0, 7, 27] == 1


def test_the_ttf_transform_replaces_the_boxes():
    given = {
        "image": np.zeros((3, 64, 64)),
        "gt_bbox": np.array([[20, 20, 44, 44]], np.float32),
        "gt_class": np.array([[1]], np.int32),
        "gt_score": np.ones((1, 1), np.float32),
        "is_crowd": np.zeros((1, 1), np.int32),
        "difficult": np.zeros((1, 1), np.int32),
    }
    (out,) = Gt2TTFTarget(num_classes=2)([given], CTX)
    assert set(out) == {"image", "ttf_heatmap", "ttf_box_target", "ttf_reg_weight", "ttf_score"}
    assert out["ttf_heatmap"][1, 8, 8] == 1
    assert all(out[key].dtype == np.float32 for key in out if key != "image")
