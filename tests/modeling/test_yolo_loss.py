"""The losses of PP-YOLO's head by hand, and of targets as Gt2YoloTarget makes them.

One level of 2 x 2 cells of 16 px (input 32 x 32 px), one anchor of 8 x 16 px = (.25, .5) of the input, 2 classes;
N = 4 anchors in the order of the cells: (y, x) = (0, 0), (0, 1), (1, 0), (1, 1).
"""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppdet_repro.data.transform.targets_yolo import Gt2YoloTarget
from ppdet_repro.modeling.losses.iou_loss import IouAwareLoss, IouLoss
from ppdet_repro.modeling.losses.yolo_loss import YOLOv3Loss
from ppdet_repro.modeling.yolo_predictions import YOLOPredictions, make_grid, rows

ANCHOR = [8, 16]
LOG2 = math.log(2)


def predictions(requires_grad=False, **values):
    """All logits 0, except those given as arrays that broadcast to their shape."""
    shapes = {"center": [1, 4, 2], "log_size": [1, 4, 2], "objectness": [1, 4], "classes": [1, 4, 2], "iou": [1, 4]}
    arrays = {name: np.zeros(shape) + values.get(name, 0) for name, shape in shapes.items()}
    tensors = {
        name: paddle.to_tensor(array, "float32", stop_gradient=not requires_grad) for name, array in arrays.items()
    }
    grid = make_grid([paddle.zeros([1, 1, 2, 2])], [[ANCHOR]], [16])
    return YOLOPredictions(**tensors, grid=grid)


def targets_of(boxes, classes, scores=None, anchors=(ANCHOR,), mask=(0,), padded_to=None):
    """Boxes in pixels (cx, cy, w, h) -> targets [1, N, 8] and relative boxes [1, padded_to, 4]."""
    padded_to = padded_to or max(len(boxes), 1)
    sample = {
        "image": np.zeros((3, 32, 32), np.float32),
        "gt_bbox": np.zeros((padded_to, 4), np.float32),
        "gt_cxcywh_relative": np.zeros((padded_to, 4), np.float32),
        "gt_class": np.zeros((padded_to, 1), np.int32),
        "gt_score": np.zeros((padded_to, 1), np.float32),
    }
    for i, box in enumerate(boxes):
        x, y, w, h = box
        sample["gt_bbox"][i] = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        sample["gt_cxcywh_relative"][i] = np.array(box) / 32
        sample["gt_class"][i] = classes[i]
        sample["gt_score"][i] = 1.0 if scores is None else scores[i]
    Gt2YoloTarget(anchors, [mask], [16], num_classes=2)([sample], None)
    target = paddle.to_tensor(sample["target0"][None])
    return rows(target, len(mask)), paddle.to_tensor(sample["gt_cxcywh_relative"][None])


def loss_of(prediction, targets, **options):
    settings = dict(num_classes=2, downsample=[16], scale_x_y=1.05, iou_loss=IouLoss(), iou_aware_loss=IouAwareLoss())
    return YOLOv3Loss(**{**settings, **options})(prediction, *targets, normalizer=targets[0].shape[0])


def test_one_box_by_hand():
    """A box of 16 x 16 px centered at (12, 4): cell (0, 0), position (.75, .25), log sizes (log 2, 0), relative area
    1/4, so its weight is 2 - 1/4 = 1.75. All logits are 0: predicted center (.5, .5), size of the anchor."""
    losses = loss_of(predictions(), targets_of([(12, 4, 16, 16)], [1]))
    assert float(losses["loss_xy"]) == pytest.approx(1.75 * (0.25 + 0.25))
    assert float(losses["loss_wh"]) == pytest.approx(1.75 * LOG2)
    # predicted (4, 0)-(12, 16) px, true (4, -4)-(20, 12): both 8 x 12 = 96, union 128 + 256 - 96 = 288, IoU 1/3
    assert float(losses["loss_iou"]) == pytest.approx(1.75 * 2.5 * (1 - 1 / 9), rel=1e-5)
    assert float(losses["loss_iou_aware"]) == pytest.approx(LOG2)  # logit 0: log 2 whatever the label
    assert float(losses["loss_obj"]) == pytest.approx(4 * LOG2)  # one positive, three negatives
    assert float(losses["loss_cls"]) == pytest.approx(2 * LOG2)  # two classes
    total = sum(float(value) for name, value in losses.items() if name != "loss")
    assert float(losses["loss"]) == pytest.approx(total)


def test_a_score_weights_all_losses_of_a_box_and_losses_are_averaged_over_images():
    """Mixup's weight .3 applies to every term of the box, including its objectness, and not to the negatives."""
    whole = loss_of(predictions(), targets_of([(12, 4, 16, 16)], [1]))
    part = loss_of(predictions(), targets_of([(12, 4, 16, 16)], [1], scores=[0.3]))
    for name in ("loss_xy", "loss_wh", "loss_iou", "loss_iou_aware", "loss_cls"):
        assert float(part[name]) == pytest.approx(0.3 * float(whole[name])), name
    assert float(part["loss_obj"]) == pytest.approx(3.3 * LOG2)
    p = predictions()
    twice = YOLOPredictions(*(paddle.concat([t, t]) for t in p[:5]), p.grid)
    targets, boxes = targets_of([(12, 4, 16, 16)], [1])
    both = loss_of(twice, (paddle.concat([targets, targets]), paddle.concat([boxes, boxes])))
    assert float(both["loss"]) == pytest.approx(float(whole["loss"]))


def test_no_boxes():
    for padded_to in (1, 50):
        prediction = predictions(requires_grad=True)
        losses = loss_of(prediction, targets_of([], [], padded_to=padded_to))
        assert float(losses["loss_obj"]) == pytest.approx(4 * LOG2) == pytest.approx(float(losses["loss"]))
        losses["loss"].backward()
        for tensor in prediction[:5]:
            assert np.isfinite(tensor.grad.numpy()).all()
        np.testing.assert_allclose(prediction.objectness.grad.numpy(), 0.5)  # sigmoid(0) - 0
    nowhere = targets_of([], [])[0], paddle.zeros([1, 0, 4])  # without padding either
    assert float(loss_of(predictions(), nowhere)["loss"]) == pytest.approx(4 * LOG2)


def test_a_box_on_a_cell_s_edge_is_within_reach_of_the_scaled_sigmoid():
    """Center at x = 16, the border of cells 0 and 1: it belongs to cell 1 at position 0. 1.05 s - .025 = 0 where
    s = .025 / 1.05, a finite logit; without scaling the sigmoid would need minus infinity."""
    targets = targets_of([(16, 8, 8, 16)], [0])
    row = targets[0][0, 1].tolist()
    assert row[:2] == [0.0, 0.5] and row[5] == 1
    s = 0.025 / 1.05
    reached = predictions(center=[math.log(s / (1 - s)), 0.0])
    assert float(loss_of(reached, targets)["loss_xy"]) == pytest.approx(0, abs=1e-6)
    assert float(loss_of(reached, targets)["loss_iou"]) == pytest.approx(0, abs=1e-4)
    plain = loss_of(predictions(center=[-9.0, 0.0]), targets, scale_x_y=1.0)
    assert float(plain["loss_xy"]) > 0.5  # cross entropy of y against .5 alone is log 2, times 2 - 1/8


def test_two_boxes_in_one_cell_the_last_wins_and_the_classes_add_up():
    """Both have the anchor's shape, centers in cell (0, 0) and classes 0 and 1. There is one positive, with the
    position of the second box, and both classes are positive. With class logits of 2: twice log(1 + e^-2)."""
    targets = targets_of([(4, 4, 8, 16), (8, 12, 8, 16)], [0, 1], scores=[1.0, 0.5])
    assert targets[0][0, 0].tolist() == pytest.approx([0.5, 0.75, 0, 0, 2 - 1 / 8, 0.5, 1, 1])
    losses = loss_of(predictions(classes=2.0), targets)
    assert float(losses["loss_xy"]) == pytest.approx(0.5 * (2 - 1 / 8) * 0.25)
    assert float(losses["loss_cls"]) == pytest.approx(0.5 * 2 * math.log1p(math.exp(-2)), rel=1e-5)
    assert float(losses["loss_obj"]) == pytest.approx(3.5 * LOG2)


def test_more_than_a_hundred_boxes():
    """150 boxes of the anchor's shape over all cells: every cell has the last of its boxes."""
    rng = np.random.default_rng(0)
    boxes = [(*rng.uniform(0, 32, 2), 8, 16) for _ in range(150)]
    targets, relative = targets_of(boxes, [0] * 150)
    assert (targets[0, :, 5] == 1).all()
    for cell in range(4):
        inside = [b for b in boxes if (int(b[1] // 16), int(b[0] // 16)) == divmod(cell, 2)]
        np.testing.assert_allclose(targets[0, cell, :2].numpy(), np.array(inside[-1][:2]) % 16 / 16, atol=1e-5)
    assert np.isfinite(float(loss_of(predictions(), (targets, relative))["loss"]))


def test_a_good_prediction_without_box_does_not_count_as_negative():
    """The box belongs to anchor 0 of cell (0, 0); anchor 1, a little larger, overlaps it by (8 x 16) / (9 x 17) =
    .837 there: over .7, ignored. In the other cells both are negatives."""
    anchors = ([8, 16], [9, 17])
    targets, boxes = targets_of([(8, 8, 8, 16)], [0], anchors=anchors, mask=(0, 1))
    assert targets[0, :, 5].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    grid = make_grid([paddle.zeros([1, 1, 2, 2])], [anchors], [16])
    shapes = ([1, 8, 2], [1, 8, 2], [1, 8], [1, 8, 2], [1, 8])
    prediction = YOLOPredictions(*(paddle.zeros(shape) for shape in shapes), grid)
    assert float(loss_of(prediction, (targets, boxes))["loss_obj"]) == pytest.approx(7 * LOG2)
    overlap = (8 * 16) / (9 * 17)
    for threshold, counted in ((overlap + 1e-4, 8), (overlap - 1e-4, 7)):
        loss = loss_of(prediction, (targets, boxes), ignore_thresh=threshold)["loss_obj"]
        assert float(loss) == pytest.approx(counted * LOG2)


def test_without_scaling_the_position_is_learned_by_cross_entropy():
    """Position (.75, .25), logits (1, 0): -.75 log s - .25 log(1 - s) with s = sigmoid(1), plus log 2."""
    s = 1 / (1 + math.exp(-1))
    expected = -0.75 * math.log(s) - 0.25 * math.log(1 - s) + LOG2
    losses = loss_of(predictions(center=[1.0, 0.0]), targets_of([(12, 4, 16, 16)], [1]), scale_x_y=1.0)
    assert float(losses["loss_xy"]) == pytest.approx(1.75 * expected, rel=1e-6)


def test_label_smoothing_moves_both_labels_by_one_over_the_classes_at_most_a_fortieth():
    """K = 2: d = min(1/2, 1/40). Class logits of 3 and -3 for a box of class 0."""
    targets = targets_of([(12, 4, 16, 16)], [0])
    right, wrong = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    smooth = loss_of(predictions(classes=[3.0, -3.0]), targets, label_smooth=True)["loss_cls"]
    assert float(smooth) == pytest.approx(2 * (39 / 40 * right + 1 / 40 * wrong), rel=1e-5)
    assert YOLOv3Loss(num_classes=100, label_smooth=True).smoothing == 1 / 100


def test_iou_loss():
    """Boxes 2 x 2 and 2 x 2, shifted by 1: both 2, union 6, IoU 1/3; eps only matters without any union."""
    a, b = paddle.to_tensor([[0.0, 0, 2, 2]]), paddle.to_tensor([[1.0, 0, 3, 2]])
    assert float(IouLoss()(a, b)[0]) == pytest.approx(2.5 * (1 - 1 / 9))
    assert float(IouLoss(1.0, loss_square=False)(a, b)[0]) == pytest.approx(2 / 3)
    point = paddle.zeros([1, 4])
    assert float(IouLoss(1.0)(point, point)[0]) == 1


def test_the_two_iou_aware_losses():
    """IoU t = 1/3. Soft label (PP-YOLOv2, equation 1): -t log s(p) - (1 - t) log(1 - s(p)), least where s(p) = t.
    Soft weight (PP-YOLO): -t log s(p), the smaller the larger p. Boxes get no gradient from either."""
    a, b = paddle.to_tensor([[0.0, 0, 2, 2]]), paddle.to_tensor([[1.0, 0, 3, 2]])
    a.stop_gradient = False
    s = 1 / (1 + math.exp(-2))
    p = paddle.to_tensor([2.0], stop_gradient=False)
    label = IouAwareLoss(form="soft_label")(p, a, b)
    assert float(label[0]) == pytest.approx(-math.log(s) / 3 - 2 / 3 * math.log(1 - s), rel=1e-5)
    label.sum().backward()
    assert float(p.grad[0]) == pytest.approx(s - 1 / 3, rel=1e-5) and a.grad is None
    weight = IouAwareLoss(form="soft_weight")
    loss = weight(p, a, b)
    assert float(loss[0]) == pytest.approx(-math.log(s) / 3, rel=1e-5)
    loss.sum().backward()
    assert a.grad is None
    assert float(weight(paddle.to_tensor([20.0]), a, b)[0]) < 1e-8  # for an IoU of only 1/3
    optimum = paddle.to_tensor([-LOG2], stop_gradient=False)  # s = 1/3
    IouAwareLoss()(optimum, a, b).sum().backward()
    assert float(optimum.grad[0]) == pytest.approx(0, abs=1e-6)
    assert IouAwareLoss().form == "soft_label"  # PaddleDetection's, for both published models


def test_losses_without_iou_parts_leave_them_out():
    losses = loss_of(predictions(), targets_of([(12, 4, 16, 16)], [1]), iou_loss=None, iou_aware_loss=None)
    assert list(losses) == ["loss_xy", "loss_wh", "loss_obj", "loss_cls", "loss"]
